package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Events as test2json writes them become one result for each test, with the line
// that says why.
func TestParseEvents(t *testing.T) {
	events := `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA/part","Output":"noise\n"}
{"Action":"pass","Test":"TestA/part"}
{"Action":"pass","Test":"TestA"}
{"Action":"run","Test":"TestB"}
{"Action":"output","Test":"TestB","Output":"        failure: expected output contains \"x\": not found\n"}
{"Action":"fail","Test":"TestB"}
{"Action":"run","Test":"TestC"}
{"Action":"output","Test":"TestC","Output":"    c_test.go:1: no plugin\n"}
{"Action":"skip","Test":"TestC"}
{"Action":"run","Test":"TestD"}
{"Action":"fail"}
`
	got, err := parseEvents(events)
	if err != nil {
		t.Fatal(err)
	}
	want := results{
		"TestA": {Outcome: "pass"},
		"TestB": {Outcome: "fail", Said: `expected output contains "x": not found`},
		"TestC": {Outcome: "skip", Said: "c_test.go:1: no plugin"},
		"TestD": {Outcome: "fail", Said: "it did not end"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a run on one side keeps of the other is what the table says.
func TestTable(t *testing.T) {
	written := table{
		onDocker: {"TestA": {Outcome: "pass"}, "TestB": {Outcome: "pass"}, "TestC": {Outcome: "fail", Said: "no | network"}},
		onStack:  {"TestA": {Outcome: "pass"}, "TestB": {Outcome: "fail", Said: "it says `x`"}, "TestC": {Outcome: "skip"}},
	}
	text := written.markdown()
	for _, line := range []string{
		"Of 2 tests that pass on Docker, 1 pass on stack.",
		"| TestA | passes | passes |  |",
		"| TestB | passes | fails | it says 'x' |",
		`| TestC | fails | skipped | on Docker: no \| network |`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the table lacks %q:\n%s", line, text)
		}
	}
	read := parseTable(text)
	read.add(onStack, results{"TestA": {Outcome: "pass"}}, true)
	if again := read.markdown(); again != text {
		t.Errorf("a table that was read is written as\n%s\nnot as\n%s", again, text)
	}
}
