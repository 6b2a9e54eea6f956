package desired

// The labels that Docker Compose puts on what it makes. They are kept so that
// the tools around Compose (Traefik, Dozzle, lazydocker, Watchtower) recognise
// a project.
const (
	LabelPrefix          = "com.docker.compose."
	LabelProject         = LabelPrefix + "project"
	LabelService         = LabelPrefix + "service"
	LabelContainerNumber = LabelPrefix + "container-number"
	LabelHook            = LabelPrefix + "hook"
	LabelHookIndex       = LabelPrefix + "hook-index"
	LabelOneOff          = LabelPrefix + "oneoff"
	LabelSlug            = LabelPrefix + "slug"
	LabelConfigHash      = LabelPrefix + "config-hash"
	LabelDependsOn       = LabelPrefix + "depends_on"
	LabelWorkingDir      = LabelPrefix + "project.working_dir"
	LabelConfigFiles     = LabelPrefix + "project.config_files"
	LabelEnvironmentFile = LabelPrefix + "project.environment_file"
	LabelVersion         = LabelPrefix + "version"
	LabelImage           = LabelPrefix + "image"   // the image's ID
	LabelDue             = LabelPrefix + "job.due" // of a job that a schedule runs: RFC 3339
	LabelNetwork         = LabelPrefix + "network"
	LabelVolume          = LabelPrefix + "volume"
)
