package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
)

// Apply changes the config by Dockerfile instructions, as "docker import
// --change" and "docker commit --change" do. If one of them is wrong, nothing
// is changed.
func (c *ContainerConfig) Apply(changes []string) error {
	next := c.clone()
	for _, change := range changes {
		if strings.TrimSpace(change) == "" {
			continue
		}
		if err := next.apply(strings.TrimSpace(change)); err != nil {
			return fmt.Errorf("cannot apply change %q: %w", change, err)
		}
	}
	*c = next
	return nil
}

// clone copies the config so far that apply does not touch the original.
func (c *ContainerConfig) clone() ContainerConfig {
	next := *c
	next.Env = append([]string(nil), c.Env...)
	next.OnBuild = append([]string(nil), c.OnBuild...)
	next.ExposedPorts = cloneMap(c.ExposedPorts)
	next.Volumes = cloneMap(c.Volumes)
	next.Labels = cloneMap(c.Labels)
	return next
}

func cloneMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return nil
	}
	next := make(map[string]V, len(m))
	for k, v := range m {
		next[k] = v
	}
	return next
}

func (c *ContainerConfig) apply(change string) error {
	instruction, rest := change, ""
	if i := strings.IndexAny(change, " \t"); i >= 0 {
		instruction, rest = change[:i], strings.TrimSpace(change[i:])
	}
	instruction = strings.ToUpper(instruction)
	if rest == "" && instruction != "CMD" && instruction != "ENTRYPOINT" {
		return fmt.Errorf("%s needs an argument", instruction)
	}
	switch instruction {
	case "CMD":
		c.Cmd = c.command(rest)
	case "ENTRYPOINT":
		c.Entrypoint = c.command(rest)
	case "ENV":
		return c.applyPairs(rest, func(key, value string) { c.Env = setEnv(c.Env, key, value) })
	case "LABEL":
		return c.applyPairs(rest, func(key, value string) {
			if c.Labels == nil {
				c.Labels = make(map[string]string)
			}
			c.Labels[key] = value
		})
	case "EXPOSE":
		return c.applyExpose(rest)
	case "HEALTHCHECK":
		check, err := c.healthcheck(rest)
		c.Healthcheck = check
		return err
	case "ONBUILD":
		switch first, _, _ := strings.Cut(strings.ToUpper(rest), " "); first {
		case "ONBUILD", "FROM", "MAINTAINER":
			return fmt.Errorf("%s cannot be an ONBUILD trigger", first)
		}
		c.OnBuild = append(c.OnBuild, rest)
	case "SHELL":
		shell, ok := jsonStrings(rest)
		if !ok || len(shell) == 0 {
			return errors.New(`SHELL needs the JSON form, such as ["/bin/bash", "-c"]`)
		}
		c.Shell = shell
	case "STOPSIGNAL", "USER", "WORKDIR":
		value, err := c.expandOne(rest)
		if err != nil {
			return err
		}
		c.setOne(instruction, value)
	case "VOLUME":
		return c.applyVolume(rest)
	default:
		return fmt.Errorf("%s is not one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR", instruction)
	}
	return nil
}

func (c *ContainerConfig) setOne(instruction, value string) {
	switch instruction {
	case "STOPSIGNAL":
		c.StopSignal = value
	case "USER":
		c.User = value
	case "WORKDIR":
		if !path.IsAbs(value) {
			value = path.Join("/", c.WorkingDir, value)
		}
		c.WorkingDir = path.Clean(value)
	}
}

// command reads the JSON form or, for anything else, the shell form.
func (c *ContainerConfig) command(s string) []string {
	if args, ok := jsonStrings(s); ok {
		return args
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), shell...), s)
}

func jsonStrings(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	args := []string{}
	return args, json.Unmarshal([]byte(s), &args) == nil
}

// applyPairs reads "key=value key2='value 2'" or the old form "key value".
func (c *ContainerConfig) applyPairs(s string, set func(key, value string)) error {
	words, err := splitWords(s)
	if err != nil {
		return err
	}
	if !strings.Contains(words[0], "=") {
		value := strings.TrimSpace(strings.TrimPrefix(s, words[0]))
		if value == "" {
			return fmt.Errorf("%q has no value; write KEY=VALUE", s)
		}
		value, err := expand(value, c.getenv)
		if err != nil {
			return err
		}
		set(words[0], value)
		return nil
	}
	type pair struct{ key, value string }
	var pairs []pair
	for _, word := range words {
		if !strings.Contains(word, "=") {
			return fmt.Errorf("%q has no value; write KEY=VALUE, with quotes around a value with spaces", word)
		}
		word, err := expand(word, c.getenv) // with the environment before this instruction
		if err != nil {
			return err
		}
		key, value, _ := strings.Cut(word, "=")
		if key == "" {
			return fmt.Errorf("%q has no key", word)
		}
		pairs = append(pairs, pair{key, value})
	}
	for _, p := range pairs {
		set(p.key, p.value)
	}
	return nil
}

func (c *ContainerConfig) getenv(key string) (string, bool) {
	for _, e := range c.Env {
		if k, v, _ := strings.Cut(e, "="); k == key {
			return v, true
		}
	}
	return "", false
}

func setEnv(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// expandOne expands an argument that is a single word, in which spaces need no
// quotes.
func (c *ContainerConfig) expandOne(s string) (string, error) {
	value, err := expand(s, c.getenv)
	if err == nil && value == "" {
		err = fmt.Errorf("%q is empty", s)
	}
	return value, err
}

func (c *ContainerConfig) applyExpose(s string) error {
	words, err := c.expandWords(s)
	if err != nil {
		return err
	}
	if c.ExposedPorts == nil {
		c.ExposedPorts = make(map[string]struct{})
	}
	for _, word := range words {
		ports, proto, ok := strings.Cut(word, "/")
		if !ok {
			proto = "tcp"
		}
		proto = strings.ToLower(proto)
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from == 0 || to < from || proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("%q is not a port; write PORT[-PORT][/tcp|/udp|/sctp]", word)
		}
		for port := from; port <= to; port++ {
			c.ExposedPorts[strconv.FormatUint(port, 10)+"/"+proto] = struct{}{}
		}
	}
	return nil
}

func (c *ContainerConfig) applyVolume(s string) error {
	dirs, ok := jsonStrings(s)
	if !ok {
		var err error
		if dirs, err = c.expandWords(s); err != nil {
			return err
		}
	}
	if c.Volumes == nil {
		c.Volumes = make(map[string]struct{})
	}
	for _, dir := range dirs {
		if strings.TrimSpace(dir) == "" {
			return errors.New("a volume cannot have an empty path")
		}
		c.Volumes[dir] = struct{}{}
	}
	return nil
}

func (c *ContainerConfig) expandWords(s string) ([]string, error) {
	words, err := splitWords(s)
	for i := range words {
		if err == nil {
			words[i], err = expand(words[i], c.getenv)
		}
	}
	return words, err
}

// healthcheck reads "[--option=value …] CMD command" or "NONE".
func (c *ContainerConfig) healthcheck(s string) (*Healthcheck, error) {
	check := &Healthcheck{}
	for strings.HasPrefix(s, "--") {
		option, rest, _ := strings.Cut(s, " ")
		s = strings.TrimSpace(rest)
		name, value, _ := strings.Cut(option, "=")
		if err := setCheck(check, name, value); err != nil {
			return nil, err
		}
	}
	kind, rest := s, ""
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		kind, rest = s[:i], strings.TrimSpace(s[i:])
	}
	switch strings.ToUpper(kind) {
	case "NONE":
		if rest != "" {
			return nil, errors.New("HEALTHCHECK NONE takes no arguments")
		}
		return &Healthcheck{Test: []string{"NONE"}}, nil
	case "CMD":
		if rest == "" {
			return nil, errors.New("HEALTHCHECK CMD needs a command")
		}
		if args, ok := jsonStrings(rest); ok {
			check.Test = append([]string{"CMD"}, args...)
		} else {
			check.Test = []string{"CMD-SHELL", rest}
		}
		return check, nil
	}
	return nil, fmt.Errorf("HEALTHCHECK is followed by CMD or NONE, not %q", kind)
}

func setCheck(h *Healthcheck, option, value string) error {
	if option == "--retries" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("--retries=%s is not a number of tries", value)
		}
		h.Retries = n
		return nil
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", option, value, err)
	}
	if d < 0 || d > 0 && d < container.MinimumDuration {
		return fmt.Errorf("%s=%s: a duration here is 0 or at least 1ms", option, value)
	}
	switch option {
	case "--interval":
		h.Interval = d
	case "--timeout":
		h.Timeout = d
	case "--start-period":
		h.StartPeriod = d
	case "--start-interval":
		h.StartInterval = d
	default:
		return fmt.Errorf("unknown option %s; HEALTHCHECK has --interval, --timeout, --start-period, --start-interval and --retries", option)
	}
	return nil
}
