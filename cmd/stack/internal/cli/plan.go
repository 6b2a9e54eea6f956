package cli

import (
	"fmt"

	"github.com/stack-run/stack/compose/plan"
)

// PrintPlan prints what up would do.
func PrintPlan(a *App, p *plan.Plan) error {
	if p.Empty() && len(p.Confirm) == 0 {
		_, err := fmt.Fprintln(a.Out, "Nothing to do.")
		return err
	}
	text := p.String()
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text += "\n"
	}
	_, err := fmt.Fprint(a.Out, text)
	return err
}

func PrintPlanJSON(a *App, p *plan.Plan) error {
	b, err := p.JSON()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, string(b))
	return err
}
