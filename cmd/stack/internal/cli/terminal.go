package cli

import (
	"errors"
	"os"

	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
)

// NormalizeTTY accepts the former name of --no-tty.
func NormalizeTTY(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "no-TTY" {
		name = "no-tty"
	}
	return pflag.NormalizedName(name)
}

// WantTTY decides on a pseudo terminal as docker compose does: one is made when
// stdin and stdout are terminals, unless -T or -t say otherwise.
func (a *App) WantTTY(f *pflag.FlagSet, tty, noTTY, stdin bool) (bool, error) {
	switch {
	case f.Changed("tty") && f.Changed("no-tty"):
		return false, errors.New("--tty and --no-tty can't be used together")
	case f.Changed("no-tty"):
		return !noTTY, nil
	case f.Changed("tty") && !tty:
		return false, nil
	case f.Changed("tty"):
		return true, a.CheckTTY(stdin)
	}
	return terminal.Is(a.In) && terminal.Is(a.Out), nil
}

// CheckTTY complains like docker where a terminal was asked for and stdin,
// which is to be connected, is none.
func (a *App) CheckTTY(stdin bool) error {
	if stdin && !terminal.Is(a.In) {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

// RawTerminal puts the terminal at stdin into raw mode, if wanted and if there
// is one. The returned function gives it back.
func (a *App) RawTerminal(want bool) (restore func()) {
	in := terminal.File(a.In)
	if !want || in == nil {
		return func() {}
	}
	restore, err := terminal.Raw(in)
	if err != nil {
		a.Warn("cannot put the terminal into raw mode: %v", err)
	}
	return restore
}

// File is the file behind a stream, nil when it is not one.
func File(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}
