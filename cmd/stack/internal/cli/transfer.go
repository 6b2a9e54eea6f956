package cli

import (
	"github.com/stack-run/stack/cmd/stack/internal/progress"
)

// ImageDisplay shows what is pulled.
func (a *App) ImageDisplay(quiet bool) progress.Display { return a.TransferDisplay("Pulling", quiet) }

// TransferDisplay shows what goes to or comes from a registry.
func (a *App) TransferDisplay(title string, quiet bool) progress.Display {
	if quiet {
		return progress.New(progress.Quiet, a.Err, progress.Options{})
	}
	return a.Display(title)
}
