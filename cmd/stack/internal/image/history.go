package image

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
)

type historyOptions struct {
	Name     string // argument
	Format   string
	Human    bool
	NoTrunc  bool
	Platform string
	Quiet    bool
}

func newHistoryCmd(a *cli.App, runF func(context.Context, *cli.App, *historyOptions) error) *cobra.Command {
	if runF == nil {
		runF = runHistory
	}
	o := &historyOptions{}
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the history of an image",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteImages,
	}
	f := cmd.Flags()
	cli.FormatFlag(f, &o.Format)
	f.BoolVarP(&o.Human, "human", "H", true, "Print sizes and dates in human readable format")
	cli.NoTruncFlag(f, &o.NoTrunc)
	f.StringVar(&o.Platform, "platform", "", "Show history for the given platform.")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only show image IDs")
	return cmd
}

// historyRow is a row of "image history" in docker's shape.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

func runHistory(ctx context.Context, a *cli.App, o *historyOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	steps, err := v.ImageHistory(ctx, o.Name, o.Platform)
	if err != nil {
		return err
	}
	var rows []historyRow
	for _, h := range steps {
		t := time.Unix(h.Created, 0)
		r := historyRow{
			Comment: h.Comment, CreatedAt: t.Local().Format(time.RFC3339), CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "),
			CreatedSince: Created(t, a.Now()), ID: h.ID, Size: strconv.FormatInt(h.Size, 10),
		}
		if o.Human {
			r.Size = units.HumanSizeWithPrecision(float64(h.Size), 3)
		}
		if !o.NoTrunc {
			r.ID, r.CreatedBy = summary.ID(h.ID, strings.HasPrefix(h.ID, "<")), summary.Ellipsis(r.CreatedBy, 45)
		}
		rows = append(rows, r)
	}
	l := format.Layout{
		Table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
		},
	}
	if !o.Human {
		l.Table = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	}
	return format.Write(a.Out, l, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}
