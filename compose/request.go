package compose

import (
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/supervise"
)

// The verbs' options in the words of a plan's request.

func upRequest(d *spec.Desired, o UpOptions) supervise.ApplyRequest {
	verb := plan.VerbUp
	if o.NoStart {
		verb = plan.VerbCreate
	}
	return supervise.ApplyRequest{Project: d.Project, Parallel: o.Parallel, Request: plan.Request{
		Verb: verb, Desired: d, Services: o.Services, NoDeps: o.NoDeps,
		ForceRecreate: o.ForceRecreate, NoRecreate: o.NoRecreate, RecreateDeps: o.RecreateDeps, NoStart: o.NoStart,
		RemoveOrphans: o.RemoveOrphans, IgnoreOrphans: o.IgnoreOrphans, RenewAnonymous: o.RenewAnonymous, Timeout: o.StopTimeout,
		AssumeYes: o.AssumeYes, RecreateVolumes: o.RecreateVolumes, Wait: o.Wait, WaitTimeout: o.WaitTimeout,
	}}
}

func downRequest(project string, o DownOptions) supervise.ApplyRequest {
	return supervise.ApplyRequest{Project: project, Images: o.ImageNames, RemoveImages: o.Images, Request: plan.Request{
		Verb: plan.VerbDown, Desired: o.Desired, Whole: o.Desired == nil, Services: o.Services, Volumes: o.Volumes, Declared: o.Declared, RemoveOrphans: o.Orphans, Timeout: o.Timeout,
	}}
}

func startRequest(project string, ids []string, o StartOptions) supervise.ApplyRequest {
	return supervise.ApplyRequest{Project: project, Request: plan.Request{
		Verb: plan.VerbStart, Containers: ids, NoDeps: o.NoDeps, Wait: o.Wait, WaitTimeout: o.WaitTimeout,
	}}
}

func verbRequest(verb plan.Verb, o StopOptions) func(project string, ids []string) supervise.ApplyRequest {
	return func(project string, ids []string) supervise.ApplyRequest {
		return supervise.ApplyRequest{Project: project, Request: plan.Request{
			Verb: verb, Containers: ids, NoDeps: o.NoDeps,
			Timeout: o.Timeout, Signal: o.Signal, Force: o.Force, Stop: o.Stop, Volumes: o.Volumes,
		}}
	}
}

func resumeRequest(project string) supervise.ApplyRequest {
	return supervise.ApplyRequest{Project: project, Request: plan.Request{Verb: plan.VerbResume}}
}
