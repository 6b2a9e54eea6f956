package compat

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/e2e/peer"
)

var update = flag.Bool("update", false, "with -peer: write the table of docker compose's flags anew")

// flagsFile is what the flags of stack are compared with beside its code.
const flagsFile = "../../cmd/stack/testdata/compose/flags.txt"

// The table of docker compose's verbs and flags is what docker compose has.
func TestFlagsOfDockerCompose(t *testing.T) {
	if !*withPeer {
		t.Skip("needs -peer")
	}
	program, err := peer.Built(t.Context(), "composeflags")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"} // variables give flags defaults
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(flagsFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(flagsFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is out of date; write it with -update:\n%s", flagsFile, diff)
	}
}
