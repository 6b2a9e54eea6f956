package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Seconds makes the engine's time limit of a --timeout flag: nil when it was
// not given, no limit when it is negative.
func Seconds(cmd *cobra.Command, name string, n int) *time.Duration {
	if !cmd.Flags().Changed(name) {
		return nil
	}
	d := time.Duration(n) * time.Second
	return &d
}

// CheckSignal rejects what is no signal's name or number before anything happens.
func CheckSignal(name string) error {
	if n, err := strconv.Atoi(name); err == nil {
		if n > 0 && n <= 64 {
			return nil
		}
		return fmt.Errorf("invalid signal: %s", name)
	}
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if unix.SignalNum(upper) != 0 || strings.HasPrefix(upper, "SIGRTMIN") || strings.HasPrefix(upper, "SIGRTMAX") {
		return nil
	}
	return fmt.Errorf("invalid signal: %s", name)
}
