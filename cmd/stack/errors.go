package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/stack-run/stack/cmd/stack/internal/progress"
)

// Exit codes that are not a container's own, as docker has them.
const (
	exitGeneral     = 1
	exitEngine      = 125 // run and exec: the engine failed before the command
	exitInterrupted = 130 // 128 + SIGINT
)

// exitError ends the process with a code. Without a cause nothing is printed.
type exitError struct {
	code  int
	cause error
}

func (e exitError) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	return fmt.Sprintf("exit status %d", e.code)
}

func (e exitError) Unwrap() error { return e.cause }

// status makes an error of a container's exit code, nil for 0.
func status(code int, err error) error {
	if err == nil && code == 0 {
		return nil
	}
	if code == 0 {
		code = exitGeneral
	}
	return exitError{code: code, cause: err}
}

// report prints an error and returns the exit code for it.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	code, text := exitGeneral, err.Error()
	var exit exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.cause == nil {
			text = ""
		}
	}
	if text == "" {
		return code
	}
	if speaksOfSpace(text) {
		if hint := spaceHint(a.disks()); hint != "" {
			text = strings.TrimRight(text, "\n") + "; " + hint
		}
	}
	if a.global.Progress == string(progress.JSON) {
		line, _ := json.Marshal(struct {
			Error   bool   `json:"error"`
			Message string `json:"message"`
		}{true, text})
		text = string(line)
	}
	fmt.Fprintln(a.err, strings.TrimRight(text, "\n"))
	return code
}
