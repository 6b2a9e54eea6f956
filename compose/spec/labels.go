package spec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

func (b *builder) containerLabels(s types.ServiceConfig, index int) map[string]string {
	labels := make(map[string]string, len(s.Labels)+10)
	for k, v := range s.Labels {
		if strings.HasPrefix(k, LabelPrefix) {
			b.warn("services."+s.Name+".labels."+k, "labels that begin with %s are reserved; this one is left out", LabelPrefix)
			continue
		}
		labels[k] = v
	}
	// --env-file reaches here as a custom label of the loader's.
	maps.Copy(labels, s.CustomLabels)
	labels[LabelProject] = b.project.Name
	labels[LabelService] = s.Name
	labels[LabelContainerNumber] = strconv.Itoa(index)
	labels[LabelOneOff] = "False"
	labels[LabelWorkingDir] = b.project.WorkingDir
	labels[LabelConfigFiles] = strings.Join(b.project.ComposeFiles, ",")
	labels[LabelVersion] = b.host.StackVersion
	labels[LabelDependsOn] = dependsOnLabel(b.dependencies(s))
	return labels
}

func dependsOnLabel(deps map[string]Dependency) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(deps)) {
		parts = append(parts, fmt.Sprintf("%s:%s:%t", name, deps[name].Condition, deps[name].Restart))
	}
	return strings.Join(parts, ",")
}

// resourceLabels are a network's or volume's.
func (b *builder) resourceLabels(own types.Labels, keyLabel, key string) map[string]string {
	labels := make(map[string]string, len(own)+3)
	maps.Copy(labels, own)
	labels[LabelProject] = b.project.Name
	labels[keyLabel] = key
	labels[LabelVersion] = b.host.StackVersion
	return labels
}
