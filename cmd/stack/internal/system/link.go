package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

// dockersNames are those under which this program is Docker's command line.
var dockersNames = []string{"docker", "docker-compose"}

func newInstallLinkCmd(a *cli.App) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "install-docker-link [OPTIONS]",
		Short: "Have this program called as docker and docker-compose, too",
		Long: `Have this program called as docker and docker-compose, too, by symbolic links.
Called so it has Docker's verbs. What is there already is left alone: where there is
a docker of another kind, nothing is made.`,
		Args: cli.ExactArgs(0),
		RunE: a.Run(func(_ context.Context, _ *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find this program: %w", err)
			}
			for _, name := range dockersNames {
				if err := checkLink(name, filepath.Join(dir, name), self); err != nil {
					return err
				}
			}
			for _, name := range dockersNames {
				made, err := link(filepath.Join(dir, name), self)
				if err != nil {
					return err
				}
				if made {
					fmt.Fprintln(a.Out, filepath.Join(dir, name))
				}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "/usr/local/bin", "The directory of the links")
	return cmd
}

// checkLink refuses to stand in for a program of that name that is another one.
func checkLink(name, path, self string) error {
	found := []string{path}
	if inPath, err := exec.LookPath(name); err == nil {
		found = append(found, inPath)
	}
	for _, file := range found {
		_, err := os.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot look at %s: %w", file, err)
		}
		if !same(file, self) {
			return fmt.Errorf("cannot make %s a link to this program: %s is another program; remove it first (with its package), or use an alias of your shell", path, file)
		}
	}
	return nil
}

// link makes a symbolic link, unless it is there.
func link(path, self string) (made bool, err error) {
	err = os.Symlink(self, path)
	if errors.Is(err, fs.ErrExist) && same(path, self) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot make the link: %w", err)
	}
	return true, nil
}

// same tells whether two names lead to one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
