package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	bk "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"

	"github.com/stack-run/stack/engine/build/request"
)

// requestOf is the frontend's name for a method of --call, or "".
func requestOf(method string) string {
	switch method {
	case "check", "lint":
		return lint.SubrequestLintDefinition.Name
	case "outline":
		return outline.SubrequestsOutlineDefinition.Name
	case "targets":
		return targets.SubrequestsTargetsDefinition.Name
	}
	return ""
}

// splitCall reads "METHOD[,format=json]".
func splitCall(s string) (method string, asJSON bool, err error) {
	method, rest, _ := strings.Cut(s, ",")
	switch rest {
	case "", "format=text":
	case "format=json":
		asJSON = true
	default:
		return "", false, fmt.Errorf("cannot read --call %q: unexpected %q; write METHOD[,format=json]", s, rest)
	}
	if requestOf(method) == "" {
		return "", false, fmt.Errorf("cannot use --call %q; use build, check, outline or targets", s)
	}
	return method, asJSON, nil
}

// call asks the Dockerfile frontend for something else than an image and returns
// the answer's metadata.
func call(ctx context.Context, conn *bk.Client, o bk.SolveOpt, what string, statuses chan *bk.SolveStatus) (map[string][]byte, error) {
	method, _, err := splitCall(what)
	if err != nil {
		close(statuses)
		return nil, err
	}
	attrs := maps.Clone(o.FrontendAttrs)
	attrs["requestid"] = requestOf(method)
	o.Exports, o.CacheExports = nil, nil
	var metadata map[string][]byte
	_, err = conn.Build(ctx, o, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		r, err := c.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: attrs})
		if err != nil {
			return nil, err
		}
		metadata = r.Metadata
		return r, nil
	}, statuses)
	return metadata, err
}

// errCheck says that a check has found something, which has been printed.
var errCheck = errors.New("the check found faults")

// printCalls prints the answers and fails where a check found something.
func printCalls(w io.Writer, b *request.Build, calls map[string]map[string][]byte) error {
	method, asJSON, err := splitCall(b.Call)
	if err != nil {
		return err
	}
	var failed error
	for _, t := range b.Targets {
		answer := calls[t.Name]
		text := answer["result.txt"]
		if asJSON {
			text = answer["result.json"]
		}
		if method == "check" || method == "lint" {
			if string(answer["result.statuscode"]) != "" && string(answer["result.statuscode"]) != "0" {
				failed = errCheck
			}
			var found lint.LintResults
			if err := json.Unmarshal(answer["result.json"], &found); err != nil {
				return fmt.Errorf("cannot read what the check found: %w", err)
			}
			if !asJSON && found.Error == nil {
				text = append([]byte(checkSummary(len(found.Warnings))), text...)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(string(text), "\n"))
	}
	return failed
}

// checkSummary is docker's first line of a check that has found n things.
func checkSummary(n int) string {
	switch n {
	case 0:
		return "Check complete, no warnings found.\n"
	case 1:
		return "Check complete, 1 warning has been found!\n"
	}
	return fmt.Sprintf("Check complete, %d warnings have been found!\n", n)
}
