package spec

import (
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine"
)

// The words of package desired, into which this package translates.
type (
	Desired    = desired.Project
	Service    = desired.Service
	Replica    = desired.Replica
	Dependency = desired.Dependency
	Hook       = desired.Hook
	Rollout    = desired.Rollout
	Network    = desired.Network
	Volume     = desired.Volume
	Job        = desired.Job
)

const (
	Version     = desired.Version
	HashVersion = desired.HashVersion

	LabelPrefix          = desired.LabelPrefix
	LabelProject         = desired.LabelProject
	LabelService         = desired.LabelService
	LabelContainerNumber = desired.LabelContainerNumber
	LabelHook            = desired.LabelHook
	LabelHookIndex       = desired.LabelHookIndex
	LabelOneOff          = desired.LabelOneOff
	LabelSlug            = desired.LabelSlug
	LabelConfigHash      = desired.LabelConfigHash
	LabelDependsOn       = desired.LabelDependsOn
	LabelWorkingDir      = desired.LabelWorkingDir
	LabelConfigFiles     = desired.LabelConfigFiles
	LabelEnvironmentFile = desired.LabelEnvironmentFile
	LabelVersion         = desired.LabelVersion
	LabelImage           = desired.LabelImage
	LabelDue             = desired.LabelDue
	LabelNetwork         = desired.LabelNetwork
	LabelVolume          = desired.LabelVolume
)

// Hash is [desired.Hash].
func Hash(s *engine.Spec) string { return desired.Hash(s) }

// Nearest is [desired.Nearest].
func Nearest(name string, candidates []string) string { return desired.Nearest(name, candidates) }

func didYouMean(name string, candidates []string) string {
	return desired.DidYouMean(name, candidates)
}
