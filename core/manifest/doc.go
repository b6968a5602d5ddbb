// Package manifest turns what people write, YAML or JSON, into plugin.Manifest
// values, and says everything that is wrong with it at once: each fault with its
// path, line, column and remedy.
//
// It owns the strict decoder that adapters use for their blocks ([Decode]), the
// checks that hold for every manifest ([Parser]), the JSON Schema made from the
// same Go types ([Parser.Schema]) and the comparison of two manifests ([Diff]).
//
// It promises that no input makes it panic, and that its time and memory are
// bounded by the size of the input: files are at most plugin.ManifestBytesMax,
// a document has at most 100,000 nodes with its aliases expanded and at most 100
// levels, an alias that leads back to itself is a fault, and at most 100 faults
// are told. It starts nothing, writes nothing, and writes no defaults in.
package manifest
