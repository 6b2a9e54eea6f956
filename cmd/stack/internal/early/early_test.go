package early

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAsked(t *testing.T) {
	for args, want := range map[string]bool{
		"stack version": true, "stack --version": true, "stack -v": true,
		"stack": false, "stack version --short": false, "stack -f version": false, "stack up": false,
		"/usr/bin/docker version": false, "docker-compose -v": false, "/opt/docker/stack version": true,
	} {
		if got := Asked(strings.Fields(args)); got != want {
			t.Errorf("%s: %v", args, got)
		}
	}
}

// The turn of a package comes only when all its imports have had theirs.
func TestImportsNothingLarge(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{join .Imports " "}}`, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "os" {
		t.Errorf("it imports %s", got)
	}
}
