package main

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkSignal rejects what is no signal's name or number before anything happens.
func checkSignal(name string) error {
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
