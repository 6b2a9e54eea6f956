package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/stack-run/stack/cmd/stack/internal/progress"
)

// Exit codes that are not a container's own, as docker has them.
const (
	ExitGeneral     = 1
	ExitEngine      = 125 // run and exec: the engine failed before the command
	ExitInterrupted = 130 // 128 + SIGINT
)

// ExitError ends the process with a code. Without a cause nothing is printed.
type ExitError struct {
	Code  int
	Cause error
}

func (e ExitError) Error() string {
	if e.Cause != nil {
		return e.Cause.Error()
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

func (e ExitError) Unwrap() error { return e.Cause }

// Status makes an error of a container's exit code, nil for 0.
func Status(code int, err error) error {
	if err == nil && code == 0 {
		return nil
	}
	if code == 0 {
		code = ExitGeneral
	}
	return ExitError{Code: code, Cause: err}
}

// Report prints an error and returns the exit code for it.
func (a *App) Report(err error) int {
	if err == nil {
		return 0
	}
	code, text := ExitGeneral, err.Error()
	var exit ExitError
	if errors.As(err, &exit) {
		code = exit.Code
		if exit.Cause == nil {
			text = ""
		}
	}
	if text == "" {
		return code
	}
	if SpeaksOfSpace(text) {
		if hint := SpaceHint(a.Disks()); hint != "" {
			text = strings.TrimRight(text, "\n") + "; " + hint
		}
	}
	if a.Global.Progress == string(progress.JSON) {
		line, _ := json.Marshal(struct {
			Error   bool   `json:"error"`
			Message string `json:"message"`
		}{true, text})
		text = string(line)
	}
	fmt.Fprintln(a.Err, strings.TrimRight(text, "\n"))
	return code
}
