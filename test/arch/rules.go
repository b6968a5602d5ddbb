package arch

// Rule is one rule of the house.
type Rule struct {
	Name string
	// Reason is why the rule is worth its cost.
	Reason string
	// Check returns each place that breaks the rule.
	Check func(House) []string
}

// Rules lists them all.
func Rules() []Rule {
	return []Rule{
		{"imports", "one can read a room without reading the house; a sixth adapter is one folder and one line", imports},
		{"libraries", "a library that changes or dies is replaced in one folder", libraries},
		{"one launcher", "group, grace, kill, exit and what is inherited are decided in one place; never a shell", oneLauncher},
		{"core knows no adapter", "what core knows of one adapter it must learn of the sixth", coreKnowsNoAdapter},
		{"adapters are whole", "one suite, one example, one tiny plugin each: the same promises for all five", adaptersAreWhole},
		{"package comments", "the map of the house is in its packages", packageComments},
		{"telling names", "a room without a purpose collects everything", tellingNames},
		{"top folders", "the root is the first thing that one reads", topFolders},
		{"serve is short", "who builds everything decides nothing", serveIsShort},
		{"no init", "nothing happens by importing", noInit},
		{"no blank imports", "nothing happens by importing", noBlankImports},
		{"no package state", "two daemons in one process, and tests in parallel, must not meet", noPackageState},
		{"no sleep in tests", "a sleep is too long on a fast machine and too short on a slow one", noSleep},
		{"no skip", "a test that did not run proves nothing and looks green", noSkip},
		{"no bare todo", "what is to be done is an issue", noBareTodo},
	}
}
