package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine/image"
)

type inspectOptions struct {
	Names  []string // arguments
	Format string
	Size   bool
	Type   string // "" tries all
}

func newInspectCmd(a *app, runF func(context.Context, *app, *inspectOptions) error) *cobra.Command {
	if runF == nil {
		runF = runInspect
	}
	o := &inspectOptions{}
	cmd := inspecting(a, o, "inspect [OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on containers, images, networks and volumes", runF)
	cmd.Flags().BoolVarP(&o.Size, "size", "s", false, "Display total file sizes if the type is container")
	cmd.Flags().StringVar(&o.Type, "type", "", "Only inspect objects of the given type")
	cmd.ValidArgsFunction = a.completeContainers
	return cmd
}

func inspecting(a *app, o *inspectOptions, use, short string, runF func(context.Context, *app, *inspectOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`)
	return cmd
}

func newContainerInspectCmd(a *app) *cobra.Command {
	o := &inspectOptions{Type: "container"}
	cmd := inspecting(a, o, "inspect [OPTIONS] CONTAINER [CONTAINER...]", "Display detailed information on one or more containers", runInspect)
	cmd.Flags().BoolVarP(&o.Size, "size", "s", false, "Display total file sizes")
	cmd.ValidArgsFunction = a.completeContainers
	return cmd
}

func newImageInspectCmd(a *app) *cobra.Command {
	o := &inspectOptions{Type: "image"}
	cmd := inspecting(a, o, "inspect [OPTIONS] IMAGE [IMAGE...]", "Display detailed information on one or more images", runInspect)
	cmd.Flags().String("platform", "", "Inspect a specific platform of the multi-platform image.")
	ignore(cmd.Flags(), "platform")
	cmd.ValidArgsFunction = a.completeImages
	return cmd
}

func newNetworkInspectCmd(a *app) *cobra.Command {
	o := &inspectOptions{Type: "network"}
	cmd := inspecting(a, o, "inspect [OPTIONS] NETWORK [NETWORK...]", "Display detailed information on one or more networks", runInspect)
	cmd.Flags().BoolP("verbose", "v", false, "Verbose output for diagnostics")
	cmd.ValidArgsFunction = a.completeNetworks
	return cmd
}

func newVolumeInspectCmd(a *app) *cobra.Command {
	o := &inspectOptions{Type: "volume"}
	cmd := inspecting(a, o, "inspect [OPTIONS] VOLUME [VOLUME...]", "Display detailed information on one or more volumes", runInspect)
	cmd.ValidArgsFunction = a.completeVolumes
	return cmd
}

// runInspect prints an array of all objects found, or with a format each on a
// line of its own, and then what was not found.
func runInspect(ctx context.Context, a *app, o *inspectOptions) error {
	kinds := []string{"container", "image", "network", "volume"}
	switch o.Type {
	case "":
	case "container", "image", "network", "volume":
		kinds = []string{o.Type}
	default:
		return fmt.Errorf("cannot inspect objects of type %q; use container, image, network or volume", o.Type)
	}
	found := []any{}
	var errs []error
	for _, name := range o.Names {
		v, err := a.lookUp(ctx, name, kinds, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	if err := printInspected(a, o.Format, found); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func printInspected(a *app, as string, found []any) error {
	if as == "" {
		return format.JSON(a.out, found, "    ")
	}
	if as == "json" {
		return format.JSON(a.out, found, "")
	}
	for _, v := range found {
		g, err := format.Generic(v)
		if err != nil {
			return err
		}
		if strings.ReplaceAll(as, " ", "") != "{{json.}}" {
			complete(g)
		}
		if err := format.Strict(a.out, as, g); err != nil {
			return err
		}
	}
	return nil
}

// optional are the fields that docker's types have and its JSON may not, by the
// object that they are in.
var optional = map[string][]string{
	"":       {"SizeRw", "SizeRootFs", "GraphDriver", "ImageManifestDescriptor", "UsageData", "Status", "Options", "Comment", "Author", "Peers", "Services"},
	"State":  {"Health"},
	"Config": {"Healthcheck", "StopSignal", "StopTimeout", "Volumes", "ExposedPorts", "OnBuild", "Shell", "ArgsEscaped", "NetworkDisabled", "MacAddress", "Labels", "Entrypoint", "Cmd", "WorkingDir", "User", "Env"},
}

// complete makes of an object in JSON what templates written for docker expect:
// its fields are named after its types, where the ID is "ID", and all are there.
func complete(g any) {
	top, ok := g.(map[string]any)
	if !ok {
		return
	}
	if id, ok := top["Id"]; ok {
		top["ID"] = id
	}
	for name, fields := range optional {
		object := top
		if name != "" {
			if object, ok = top[name].(map[string]any); !ok {
				continue
			}
		}
		for _, f := range fields {
			if _, ok := object[f]; !ok {
				object[f] = nil
			}
		}
	}
}

// lookUp inspects the first object of that name among the kinds.
func (a *app) lookUp(ctx context.Context, name string, kinds []string, o *inspectOptions) (any, error) {
	var first error
	for _, kind := range kinds {
		v, err := a.inspectOne(ctx, kind, name, o)
		if err == nil {
			return v, nil
		}
		if first == nil || !missing(err) {
			first = err
		}
	}
	if len(kinds) > 1 && missing(first) {
		return nil, fmt.Errorf("no such object: %s", name)
	}
	return nil, first
}

// missing reports whether an error says that there is no such object.
func missing(err error) bool {
	return err != nil && (errors.Is(err, errNoNetwork) || image.IsNotFound(err) ||
		strings.Contains(err.Error(), "no such") || strings.Contains(err.Error(), "does not exist"))
}

func (a *app) inspectOne(ctx context.Context, kind, name string, o *inspectOptions) (any, error) {
	switch kind {
	case "container":
		return a.inspectContainer(ctx, name, o.Size)
	case "image":
		e, store, err := a.images()
		if err != nil {
			return nil, err
		}
		img, err := store.Resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		disk, err := e.MeasureImages(img)
		if err != nil {
			return nil, err
		}
		return image.DockerInspect(img, disk[0].Size), nil
	case "network":
		n, err := a.findNetwork(ctx, name)
		if err != nil {
			return nil, err
		}
		used, err := a.networkUsers(ctx)
		if err != nil {
			return nil, err
		}
		return inspectNetwork(n, used[n.Name]), nil
	}
	v, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	volume, err := v.Volume(ctx, name)
	if err != nil {
		return nil, err
	}
	return inspectVolume(volume), nil
}

func (a *app) inspectContainer(ctx context.Context, name string, size bool) (any, error) {
	v, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	got, err := v.Inspect(ctx, name)
	if err != nil {
		return nil, err
	}
	// The engine answers as docker's command does, with an array of one.
	if raw, err := json.Marshal(got); err == nil && len(raw) > 0 && raw[0] == '[' {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) == nil && len(list) == 1 {
			got = list[0]
		}
	}
	if !size {
		return got, nil
	}
	cs, err := v.Containers(ctx, compose.Selector{IDs: []string{name}, All: true})
	if err != nil || len(cs) == 0 {
		return got, err
	}
	sizes, err := a.containerSizes(ctx)
	if err != nil {
		return nil, err
	}
	own, virtual := sizes(cs[0])
	g, err := format.Generic(got)
	if m, ok := g.(map[string]any); ok && err == nil {
		m["SizeRw"], m["SizeRootFs"] = own, virtual
	}
	return g, err
}
