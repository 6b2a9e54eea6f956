package compose

import (
	"context"
	"errors"

	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
)

// RemoveBroken removes a container whose record cannot be used. A supervisor that
// has it since before the damage knows more of it and is asked first.
func (c *Client) RemoveBroken(ctx context.Context, b *engine.Broken) error {
	if b.Newer {
		return b
	}
	if c.rehearse != nil {
		return nil // a dry run removes nothing, and a plan cannot name it
	}
	if realm := supervise.RealmOf(b.Project); b.Project != "" && c.supervisor(realm).Alive() {
		req := verbRequest(plan.VerbRemove, StopOptions{Force: true})(realm, []string{b.ID})
		if c.apply(ctx, req, nil) == nil && !c.Engine.Records.Exists(b.ID) {
			return nil
		}
	}
	return c.Engine.RemoveBroken(ctx, b)
}

// removeBrokenOf removes the broken containers of a project.
func (c *Client) removeBrokenOf(ctx context.Context, project string) error {
	_, broken, err := c.Engine.Records.Scan()
	errs := []error{err}
	for _, b := range broken {
		if b.Project == project {
			errs = append(errs, c.RemoveBroken(ctx, b))
		}
	}
	return errors.Join(errs...)
}

// removeBroken removes those of the containers that s names whose record is
// broken, and returns the others.
func (c *Client) removeBroken(ctx context.Context, s Selector) (Selector, error) {
	var whole []string
	var errs []error
	for _, ref := range s.IDs {
		var b *engine.Broken
		if _, err := c.Engine.Records.Find(ref); errors.As(err, &b) {
			errs = append(errs, c.RemoveBroken(ctx, b))
		} else {
			whole = append(whole, ref)
		}
	}
	s.IDs = whole
	return s, errors.Join(errs...)
}

// BrokenFile is a project's definition, or record of its schedules, that cannot be read.
type BrokenFile struct {
	supervise.BrokenFile
	Removed bool
}

// BrokenFiles lists what of projects cannot be read; repair removes it, but for what is
// of a later version. The next "stack up" of the project writes it again.
func (c *Client) BrokenFiles(repair bool) ([]BrokenFile, error) {
	broken, err := c.projects.Broken()
	var out []BrokenFile
	for _, b := range broken {
		f := BrokenFile{BrokenFile: b}
		if repair && !b.Err.Newer {
			removeErr := c.projects.Remove(b)
			f.Removed, err = removeErr == nil, errors.Join(err, removeErr)
		}
		out = append(out, f)
	}
	return out, err
}
