package main

import (
	"fmt"

	"github.com/stack-run/stack/compose/plan"
)

// printPlan prints what up would do.
func printPlan(a *app, p *plan.Plan) error {
	if p.Empty() {
		_, err := fmt.Fprintln(a.out, "Nothing to do.")
		return err
	}
	text := p.String()
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text += "\n"
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}

func printPlanJSON(a *app, p *plan.Plan) error {
	b, err := p.JSON()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, string(b))
	return err
}

// hasChanges reports whether up would do anything.
func hasChanges(p *plan.Plan) bool { return !p.Empty() }
