package plugin

// A LogBatch is lines of one instance's stream that travel as one message.
type LogBatch struct {
	Plugin, Instance string
	Stream           LogStream
	Lines            []LogLine
	// Upto is how far the stream's file is read once the batch is stored: where
	// reading goes on after its last line. 0 for what is no file.
	Upto int64
	// Keep is how much of the plugin's log is kept.
	Keep Logs
}

// A LogSource is whose lines are asked for.
type LogSource struct {
	Plugin string
	// Instance is empty for all of the plugin's.
	Instance string
}
