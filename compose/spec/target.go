package spec

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/request"
)

// TargetOptions select and change what is built.
type TargetOptions struct {
	// Services are those to build; empty: all that have a build section. What
	// they take as additional contexts is built in any case.
	Services []string
	// Args win over the file's; a name alone is looked up in the environment.
	Args []string
	// SSH are further agents: "default" or ID=SOCKET.
	SSH []string
	// NoCache and Pull are added to what the file says.
	NoCache, Pull bool
	// Provenance and SBOM replace the file's where they are not empty.
	Provenance, SBOM string
	// Platform is for services that name none.
	Platform string
}

// Targets translates the build sections of services. All faults found are
// returned together.
func Targets(p *types.Project, host HostFacts, o TargetOptions) ([]request.Target, []Warning, error) {
	b := newBuilder(p, host)
	p = WithJobs(p)
	names := slices.Clone(o.Services)
	if len(names) == 0 {
		names = p.ServiceNames()
	}
	var out []request.Target
	seen, needed := map[string]bool{}, map[string]bool{}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		s, ok := p.Services[name]
		if !ok && needed[name] {
			// An image that another one is built from need not run itself: the profile
			// of its service may be inactive.
			s, ok = p.DisabledServices[name]
		}
		if seen[name] || !ok || s.Build == nil {
			continue
		}
		seen[name] = true
		if _, job := b.project.Jobs[name]; job {
			b.job = name
		}
		t := b.target(s, o)
		b.job = ""
		for _, other := range t.Needs() {
			names, needed[other] = append(names, other), true
		}
		out = append(out, t)
	}
	if len(b.errs) > 0 {
		return nil, b.warnings, joinErrors(b.errs)
	}
	return out, b.warnings, nil
}

func (b *builder) target(s types.ServiceConfig, o TargetOptions) request.Target {
	c, path := s.Build, "services."+s.Name+".build"
	t := request.Target{
		Name:          s.Name,
		Context:       c.Context,
		Inline:        c.DockerfileInline,
		Args:          b.buildArgs(c.Args, o.Args),
		Stage:         c.Target,
		Labels:        b.imageLabels(s.Name, c.Labels),
		Names:         append([]string{ImageName(b.project.Name, s, b.host.Separator)}, c.Tags...),
		Contexts:      b.contexts(path, c.AdditionalContexts),
		Secrets:       b.buildSecrets(path, c.Secrets),
		SSH:           b.buildSSH(path, c.SSH, o.SSH),
		Network:       b.buildNetwork(path, c.Network),
		UserNS:        b.buildUserNS(s),
		ShmSize:       int64(c.ShmSize),
		ExtraHosts:    b.buildHosts(path, c.ExtraHosts),
		NoCache:       c.NoCache || o.NoCache,
		NoCacheStages: slices.Clone(c.NoCacheFilter),
		Pull:          c.Pull || o.Pull,
		Platforms:     platforms(s, o.Platform),
		Entitlements:  b.entitlements(path, c),
		Attestations:  b.attestations(path, c, o),
	}
	if t.UserNS != "" {
		t.Project = b.project.Name
	}
	switch {
	case t.Context == "":
		t.Context = b.project.WorkingDir
	case strings.HasPrefix(c.Context, types.ServicePrefix):
		b.fail(path+".context", "a service cannot be the context itself; write additional_contexts: {NAME: %s} and COPY --from=NAME", c.Context)
	}
	if !request.HasScheme(t.Context) {
		t.Context = b.relative(t.Context)
	}
	if t.Inline == "" && c.Dockerfile != "" {
		t.Dockerfile = c.Dockerfile
		if !request.IsRemote(t.Context) && !filepath.IsAbs(t.Dockerfile) {
			t.Dockerfile = filepath.Join(t.Context, t.Dockerfile)
		}
	}
	for i, v := range c.CacheFrom {
		t.CacheFrom = b.cache(t.CacheFrom, index(path+".cache_from", i), v, false)
	}
	for i, v := range c.CacheTo {
		t.CacheTo = b.cache(t.CacheTo, index(path+".cache_to", i), v, true)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Ulimits)) {
		u := c.Ulimits[name]
		soft, hard := u.Soft, u.Hard
		if u.Single != 0 {
			soft, hard = u.Single, u.Single
		}
		parsed, err := request.ParseUlimit(fmt.Sprintf("%s=%d:%d", name, soft, hard))
		if err != nil {
			b.fail(path+".ulimits."+name, "%w", err)
		}
		t.Ulimits = append(t.Ulimits, parsed)
	}
	if c.Isolation != "" && c.Isolation != "default" {
		b.warn(path+".isolation", "isolation %q is for Windows and has no effect", c.Isolation)
	}
	return t
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// buildArgs resolves arguments without a value in the project's environment;
// those that are not there either keep the Dockerfile's default.
func (b *builder) buildArgs(file types.MappingWithEquals, flags []string) map[string]string {
	out := map[string]string{}
	set := func(key string, value *string) {
		if value != nil {
			out[key] = *value
		} else if v, ok := b.project.Environment[key]; ok {
			out[key] = v
		}
	}
	set("SOURCE_DATE_EPOCH", nil)
	for key, value := range file {
		set(key, value)
	}
	for _, arg := range flags {
		key, value, ok := strings.Cut(arg, "=")
		if ok {
			set(key, &value)
		} else {
			set(key, nil)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (b *builder) imageLabels(service string, own types.Labels) map[string]string {
	labels := make(map[string]string, len(own)+3)
	maps.Copy(labels, own)
	labels[LabelProject] = b.project.Name
	labels[LabelService] = service
	labels[LabelVersion] = b.host.StackVersion
	return labels
}

func (b *builder) contexts(path string, in types.Mapping) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for name, value := range in {
		at := path + ".additional_contexts." + name
		if service, ok := strings.CutPrefix(value, types.ServicePrefix); ok {
			s, ok := b.project.Services[service]
			if !ok {
				s, ok = b.project.DisabledServices[service]
			}
			if !ok || s.Build == nil {
				b.fail(at, "there is no service %q with a build section to take the context from%s", service, didYouMean(service, b.project.ServiceNames()))
			}
			out[name] = request.TargetPrefix + service
			continue
		}
		if dir, ok := strings.CutPrefix(value, "oci-layout://"); ok {
			value = "oci-layout://" + b.relative(dir)
		} else if !request.HasScheme(value) {
			value = b.relative(value)
		}
		out[name] = value
	}
	return out
}

func (b *builder) buildSecrets(path string, in []types.ServiceSecretConfig) []request.Secret {
	var out []request.Secret
	for i, s := range in {
		at := index(path+".secrets", i)
		def, ok := b.project.Secrets[s.Source]
		if !ok {
			b.fail(at, "there is no secret %q at the top level%s", s.Source, didYouMean(s.Source, b.project.SecretNames()))
			continue
		}
		secret := request.Secret{ID: s.Target}
		if secret.ID == "" {
			secret.ID = s.Source
		}
		if s.UID != "" || s.GID != "" || s.Mode != nil {
			b.warn(at, "uid, gid and mode of a build's secret are said in the Dockerfile (RUN --mount=type=secret,uid=…); they have no effect here")
		}
		switch {
		case bool(def.External):
			content, err := b.readStored("secret", def.Name)
			if err != nil {
				b.fail("secrets."+s.Source+".external", "%w", err)
			}
			value := string(content.content)
			secret.Value = &value
		case def.File != "":
			secret.File = b.relative(def.File)
		case def.Environment != "":
			value, set := b.project.Environment[def.Environment]
			if !set {
				b.fail(at, "secret %q is the variable %s, which is not set", s.Source, def.Environment)
			}
			secret.Value = &value
		default:
			secret.Value = &def.Content
		}
		out = append(out, secret)
	}
	return out
}

func (b *builder) buildSSH(path string, file types.SSHConfig, flags []string) []request.SSH {
	var out []request.SSH
	// The loader goes through a map: the order is nobody's.
	file = slices.SortedFunc(slices.Values(file), func(a, b types.SSHKey) int { return strings.Compare(a.ID, b.ID) })
	for _, k := range file {
		s := request.SSH{ID: k.ID}
		if k.Path != "" {
			s.Paths = strings.Split(k.Path, ",")
		}
		out = append(out, s)
	}
	for _, f := range flags {
		s, err := request.ParseSSH(f)
		if err != nil {
			b.fail(path+".ssh", "%w", err)
			continue
		}
		out = slices.DeleteFunc(out, func(o request.SSH) bool { return o.ID == s.ID })
		out = append(out, s)
	}
	return out
}

func (b *builder) buildNetwork(path, mode string) string {
	if err := request.CheckNetwork(mode); err != nil {
		b.fail(path+".network", "%w", err)
	}
	return mode
}

func (b *builder) buildHosts(path string, hosts types.HostsList) []request.Host {
	var out []request.Host
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		for _, address := range hosts[name] {
			if _, err := netip.ParseAddr(address); err != nil && address != "host-gateway" {
				b.fail(path+".extra_hosts", "%q for host %q is no IP address; write an address or host-gateway", address, name)
			}
			out = append(out, request.Host{Name: name, Address: address})
		}
	}
	return out
}

func (b *builder) cache(list []request.Entry, path, value string, export bool) []request.Entry {
	e, err := request.ParseCache(value, export, b.project.WorkingDir)
	if err != nil {
		b.fail(path, "%w", err)
		return list
	}
	return append(list, e)
}

// buildUserNS has an image built in a user namespace where its containers run in one.
func (b *builder) buildUserNS(s types.ServiceConfig) string {
	mode, err := engine.BuildUserNS(s.UserNSMode)
	if err != nil {
		b.fail("services."+s.Name+".userns_mode", "%w", err)
	}
	return mode
}

func platforms(s types.ServiceConfig, fallback string) []string {
	switch {
	case len(s.Build.Platforms) > 0:
		return slices.Clone(s.Build.Platforms)
	case s.Platform != "":
		return []string{s.Platform}
	case fallback != "":
		return []string{fallback}
	}
	return nil
}

func (b *builder) entitlements(path string, c *types.BuildConfig) []string {
	out := slices.Clone(c.Entitlements)
	for i, e := range out {
		if e != "network.host" && e != "security.insecure" && e != "device" && !strings.HasPrefix(e, "device=") {
			b.fail(index(path+".entitlements", i), "there is no entitlement %q; use network.host, security.insecure or device", e)
		}
	}
	if c.Privileged {
		out = append(out, "security.insecure")
	}
	if c.Network == "host" {
		out = append(out, "network.host")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (b *builder) attestations(path string, c *types.BuildConfig, o TargetOptions) map[string]string {
	out := map[string]string{}
	for kind, value := range map[string]string{
		"provenance": cmp.Or(o.Provenance, c.Provenance), "sbom": cmp.Or(o.SBOM, c.SBOM),
	} {
		if value == "" {
			continue
		}
		params, on, err := request.ShortAttest(kind, value)
		if err != nil {
			b.fail(path+"."+kind, "%w", err)
		}
		if on {
			out[kind] = params
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
