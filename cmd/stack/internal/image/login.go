package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
)

type loginOptions struct {
	Server        string // argument, "" for Docker Hub
	Username      string
	Password      string
	PasswordStdin bool
}

func NewLoginCmd(a *cli.App, runF func(context.Context, *cli.App, *loginOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLogin
	}
	o := &loginOptions{}
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Authenticate to a registry",
		Long:  "Authenticate to a registry. Defaults to Docker Hub if no server is specified.",
		Args:  cobra.MaximumNArgs(1),
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Server = args[0]
			}
			switch f := cmd.Flags(); {
			case f.Changed("password") && o.PasswordStdin:
				return errors.New("--password and --password-stdin are mutually exclusive")
			case o.PasswordStdin && o.Username == "":
				return errors.New("the --password-stdin option requires --username to be set")
			case f.Changed("password"):
				a.Warn("Using --password via the CLI is insecure. Use --password-stdin.")
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Username, "username", "u", "", "Username")
	f.StringVarP(&o.Password, "password", "p", "", "Password or Personal Access Token (PAT)")
	f.BoolVar(&o.PasswordStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	return cmd
}

func runLogin(ctx context.Context, a *cli.App, o *loginOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	server := compose.RegistryServer(o.Server)
	cred := compose.Credential{Username: o.Username, Password: o.Password}
	switch {
	case o.PasswordStdin:
		data, err := io.ReadAll(io.LimitReader(a.In, 1<<20))
		if err != nil {
			return fmt.Errorf("cannot read the password from stdin: %w", err)
		}
		cred.Password = strings.TrimRight(string(data), "\r\n")
	case cred.Username == "" && cred.Password == "":
		kept, err := v.Credential(ctx, server)
		if err != nil {
			return err
		}
		if kept != (compose.Credential{}) {
			fmt.Fprintln(a.Err, "Authenticating with existing credentials...")
			if _, err := v.Login(ctx, server, kept); err == nil {
				fmt.Fprintln(a.Out, "Login Succeeded")
				return nil
			} else if !terminal.Is(a.In) {
				return err
			}
			fmt.Fprintln(a.Err, "They do not work any more; log in anew.")
		}
	}
	if cred.Username == "" || cred.Password == "" {
		if err := askCredential(ctx, a, server, &cred); err != nil {
			return err
		}
	}
	where, err := v.Login(ctx, server, cred)
	if err != nil {
		return err
	}
	if where != "" {
		a.Warn("Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/", where)
	}
	fmt.Fprintln(a.Out, "Login Succeeded")
	return nil
}

// askCredential asks for what is missing.
func askCredential(ctx context.Context, a *cli.App, server string, cred *compose.Credential) error {
	in := terminal.File(a.In)
	if in == nil {
		return fmt.Errorf("cannot log in to %s: stdin is no terminal to ask at; give --username and --password-stdin", server)
	}
	if cred.Username == "" {
		fmt.Fprint(a.Err, "Username: ")
		name, err := readLine(ctx, in)
		if err != nil {
			return err
		}
		if cred.Username = strings.TrimSpace(name); cred.Username == "" {
			return errors.New("username is required")
		}
	}
	if cred.Password == "" {
		restore, err := terminal.NoEcho(in)
		if err != nil {
			return err
		}
		fmt.Fprint(a.Err, "Password: ")
		cred.Password, err = readLine(ctx, in)
		restore()
		fmt.Fprintln(a.Err)
		if err != nil {
			return err
		}
		if cred.Password == "" {
			return errors.New("password is required")
		}
	}
	return nil
}

// readLine reads what the user types, up to the end of the line, unless ctx ends.
func readLine(ctx context.Context, in *os.File) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		read <- answer{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case got := <-read:
		if errors.Is(got.err, io.EOF) && got.line != "" {
			got.err = nil
		}
		return got.line, got.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func NewLogoutCmd(a *cli.App, runF func(context.Context, *cli.App, string) error) *cobra.Command {
	if runF == nil {
		runF = runLogout
	}
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Log out from a registry. If no server is specified, the default is Docker Hub.",
		Args:  cobra.MaximumNArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			server := ""
			if len(args) > 0 {
				server = args[0]
			}
			return runF(ctx, a, server)
		}),
	}
}

func runLogout(ctx context.Context, a *cli.App, server string) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	server = compose.RegistryServer(server)
	had, err := v.Logout(ctx, server)
	if err != nil {
		return err
	}
	if !had {
		fmt.Fprintf(a.Out, "Not logged in to %s\n", server)
		return nil
	}
	fmt.Fprintf(a.Out, "Removing login credentials for %s\n", server)
	return nil
}
