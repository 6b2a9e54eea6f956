package project

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/load/publish"
	"github.com/stack-run/stack/compose/spec"
)

type publishOptions struct {
	Repository          string // argument
	App                 bool
	Insecure            bool
	OCIVersion          string
	ResolveImageDigests bool
	WithEnv             bool
	Yes                 bool
}

func NewPublishCmd(a *cli.App, runF func(context.Context, *cli.App, *publishOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPublish
	}
	o := &publishOptions{}
	cmd := &cobra.Command{
		Use:   "publish [OPTIONS] REPOSITORY[:TAG]",
		Short: "Publish compose application",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Repository = args[0]
			if o.App {
				return errors.New("cannot publish images as a part of the project (--app); leave it out, and have them pulled by their names")
			}
			switch o.OCIVersion {
			case "", "1.0", "1.1":
			default:
				return fmt.Errorf("cannot use --oci-version %q; use 1.0 or 1.1", o.OCIVersion)
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&o.App, "app", false, "Published compose application (includes referenced images)")
	f.BoolVar(&o.Insecure, "insecure-registry", false, "Use insecure registry")
	f.StringVar(&o.OCIVersion, "oci-version", "", "OCI image/artifact specification version (automatically determined by default)")
	f.BoolVar(&o.ResolveImageDigests, "resolve-image-digests", false, "Pin image tags to digests")
	f.BoolVar(&o.WithEnv, "with-env", false, "Include environment variables in the published OCI artifact")
	f.BoolVarP(&o.Yes, "yes", "y", false, `Assume "yes" as answer to all prompts`)
	f.SetNormalizeFunc(assumeYes)
	f.Lookup("insecure-registry").Hidden = true
	return cmd
}

func runPublish(ctx context.Context, a *cli.App, o *publishOptions) error {
	name, err := reference.ParseNormalizedNamed(o.Repository)
	if err != nil {
		return fmt.Errorf("cannot publish as %q: %w", o.Repository, err)
	}
	a.Global.Profiles = []string{"*"} // all of a project is published
	p, err := a.LoadProject(ctx, cli.LoadRequest{})
	if err != nil {
		return err
	}
	switch path, err := publish.LocalInclude(p.Project, load.IsRemote); {
	case err != nil:
		return err
	case path != "":
		return fmt.Errorf("cannot publish compose file with local includes: %s would be missing; merge it into the file, or include it from a repository", path)
	}
	found, err := publish.Look(p.Project)
	if err != nil {
		return err
	}
	if len(found.BuildOnly) > 0 {
		return fmt.Errorf("your Compose stack cannot be published as it only contains a build section for service(s):\n%s\nadd \"image\" to them", listed(found.BuildOnly))
	}
	if err := o.ask(a, found); err != nil {
		return err
	}
	if err := o.pushBuilt(ctx, a, p); err != nil {
		return err
	}
	artifact, err := o.artifact(ctx, a, p)
	if err != nil {
		return err
	}
	return a.Watch("Publishing", func(tell compose.Progress) error {
		tell(apply.Event{Name: o.Repository, Status: "publishing"})
		if !a.Global.DryRun {
			v, err := a.API(ctx)
			if err != nil {
				return err
			}
			var insecure []string
			if o.Insecure {
				insecure = append(insecure, reference.Domain(name))
			}
			if _, err := v.PushArtifact(ctx, o.Repository, artifact, insecure...); err != nil {
				tell(apply.Event{Name: o.Repository, Status: "Error", Done: true})
				return err
			}
		}
		tell(apply.Event{Name: o.Repository, Status: "published", Done: true})
		return nil
	})
}

// listed are names as the lines of a list.
func listed(names []string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "- %q\n", name)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ask asks about what others would see. The questions are docker compose's.
func (o *publishOptions) ask(a *cli.App, found publish.Findings) error {
	var questions []string
	if len(found.Binds) > 0 {
		questions = append(questions, "you are about to publish bind mounts declaration within your OCI artifact.\n"+
			"only the bind mount declarations will be added to the OCI artifact (not content)\n"+
			"please double check that you are not mounting potential user's sensitive directories or data\n"+
			strings.Join(found.Binds, "\n")+"\nAre you ok to publish these bind mount declarations?")
	}
	if len(found.Secrets) > 0 {
		var b strings.Builder
		b.WriteString("you are about to publish sensitive data within your OCI artifact.\nplease double check that you are not leaking sensitive data\n")
		for _, s := range found.Secrets {
			fmt.Fprintf(&b, "%s\n%q: %s\n", s.Type, s.Key, s.Value)
		}
		questions = append(questions, b.String()+"Are you ok to publish these sensitive data?")
	}
	if len(found.Env) > 0 && !o.WithEnv {
		var b strings.Builder
		b.WriteString("you are about to publish env-related declarations within your OCI artifact.\n" +
			"env_file paths and literal values for sensitive-looking keys are embedded as-is in the published YAML;\n" +
			"interpolated values like \"${VAR}\" are kept symbolic and have already been excluded.\n")
		for _, e := range found.Env {
			if e.HasFile {
				fmt.Fprintf(&b, "  %q: env_file declared\n", e.Service)
			}
			if len(e.Keys) > 0 {
				quoted := make([]string, len(e.Keys))
				for i, key := range e.Keys {
					quoted[i] = strconv.Quote(key)
				}
				fmt.Fprintf(&b, "  %q: literal value for %s\n", e.Service, strings.Join(quoted, ", "))
			}
		}
		questions = append(questions, b.String()+"Use --with-env to silence this prompt and always publish env declarations.\nAre you ok to publish these env declarations?")
	}
	if len(found.Configs) > 0 {
		questions = append(questions, "you are about to publish literal inline config content within your OCI artifact.\n  config "+
			strings.Join(found.Configs, "\n  config ")+"\nAre you ok to publish these config contents?")
	}
	if o.Yes {
		return nil
	}
	for _, q := range questions {
		ok, err := a.Confirm(q + " [y/N] ")
		if err != nil {
			return err
		}
		if !ok {
			return cli.ExitError{Code: cli.ExitInterrupted, Cause: errors.New("nothing was published")}
		}
	}
	return nil
}

// pushBuilt pushes the images that the project builds, without which others could not
// run it. One that fails is warned of: it may be there already.
func (o *publishOptions) pushBuilt(ctx context.Context, a *cli.App, p *cli.Project) error {
	targets, _, err := spec.Targets(p.Project, spec.HostFacts{Locate: p.Locate, Separator: a.Separator(), Stored: spec.Unread}, spec.TargetOptions{})
	if err != nil || a.Global.DryRun {
		return err
	}
	names := namesToPush(a, p.Desired, targets)
	if len(names) == 0 {
		return nil
	}
	if err := image.PushImages(ctx, a, names, compose.PushOptions{KeepGoing: true, Parallel: a.Parallel()}, false); err != nil {
		a.Warn("%v", err)
	}
	return nil
}

func (o *publishOptions) artifact(ctx context.Context, a *cli.App, p *cli.Project) (compose.Artifact, error) {
	docs, err := publish.Documents(p.Project, o.WithEnv)
	if err != nil {
		return compose.Artifact{}, err
	}
	if o.ResolveImageDigests {
		lo, err := a.LoadOptions()
		if err != nil {
			return compose.Artifact{}, err
		}
		pins, _, err := load.Config(ctx, lo, load.ConfigOptions{LockImageDigests: true, ResolveDigest: localDigest(a)})
		if err != nil {
			return compose.Artifact{}, err
		}
		docs = append(docs, publish.ComposeFile("image-digests.yaml", pins))
	}
	artifact := compose.Artifact{Type: publish.ArtifactType}
	if o.OCIVersion == "1.0" {
		artifact.ConfigType = publish.ConfigType
	}
	for _, d := range docs {
		artifact.Documents = append(artifact.Documents, compose.ArtifactDocument(d))
	}
	return artifact, nil
}
