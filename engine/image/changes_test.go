package image

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/engine/content"
)

func TestApply(t *testing.T) {
	for _, test := range []struct {
		name    string
		changes []string
		want    string // the config as JSON
	}{
		{"cmd json", []string{`CMD ["/bin/sh", "-c", "echo \"x\""]`}, `{"Cmd":["/bin/sh","-c","echo \"x\""]}`},
		{"cmd shell", []string{`CMD echo $HOME`}, `{"Cmd":["/bin/sh","-c","echo $HOME"]}`},
		{"cmd with shell", []string{`SHELL ["/bin/bash","-c"]`, `CMD x`}, `{"Cmd":["/bin/bash","-c","x"],"Shell":["/bin/bash","-c"]}`},
		{"entrypoint", []string{`entrypoint ["/init"]`}, `{"Entrypoint":["/init"]}`},
		{"env", []string{`ENV A=1 B="two words" C=$A-x D='$A' E=a\ b`}, `{"Env":["A=1","B=two words","C=-x","D=$A","E=a b"]}`},
		{"env refers to env", []string{`ENV A=1`, `ENV B=${A}2 C=${X:-d} D=${A:+set} A=3`}, `{"Env":["A=3","B=12","C=d","D=set"]}`},
		{"env old form", []string{`ENV PATH /usr/bin:/bin and more`}, `{"Env":["PATH=/usr/bin:/bin and more"]}`},
		{"env empty value", []string{`ENV A= B=""`}, `{"Env":["A=","B="]}`},
		{"expose", []string{`EXPOSE 80 53/udp 8000-8001/tcp`}, `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{}}}`},
		{"label", []string{`LABEL a=b "c d"="e f"`}, `{"Labels":{"a":"b","c d":"e f"}}`},
		{"volume", []string{`VOLUME ["/a", "/b c"]`, `VOLUME /d /e`}, `{"Volumes":{"/a":{},"/b c":{},"/d":{},"/e":{}}}`},
		{"workdir", []string{`WORKDIR /a`, `WORKDIR b/../c`}, `{"WorkingDir":"/a/c"}`},
		{"user stopsignal", []string{`USER 1000:100`, `STOPSIGNAL SIGQUIT`}, `{"User":"1000:100","StopSignal":"SIGQUIT"}`},
		{"healthcheck", []string{`HEALTHCHECK --interval=5s --timeout=1s --retries=2 --start-period=1m --start-interval=1s CMD curl -f localhost`}, `{"Healthcheck":{"Test":["CMD-SHELL","curl -f localhost"],"Interval":5000000000,"Timeout":1000000000,"StartPeriod":60000000000,"StartInterval":1000000000,"Retries":2}}`},
		{"healthcheck exec", []string{`HEALTHCHECK CMD ["/check"]`}, `{"Healthcheck":{"Test":["CMD","/check"]}}`},
		{"healthcheck none", []string{`HEALTHCHECK NONE`}, `{"Healthcheck":{"Test":["NONE"]}}`},
		{"onbuild", []string{`ONBUILD RUN make`}, `{"OnBuild":["RUN make"]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c ContainerConfig
			if err := c.Apply(test.changes); err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("config %s\nwant   %s", got, test.want)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for change, want := range map[string]string{
		`RUN make`:                         "RUN is not one of",
		`ENV`:                              "ENV needs an argument",
		`ENV A`:                            "has no value",
		`ENV A=1 B`:                        "has no value",
		`ENV =x`:                           "has no key",
		`ENV A="x`:                         "not closed",
		`ENV A=${B`:                        "not closed",
		`ENV A=${B?x}`:                     "only ${NAME}",
		`EXPOSE 80/icmp`:                   "is not a port",
		`EXPOSE 0`:                         "is not a port",
		`EXPOSE 90-80`:                     "is not a port",
		`EXPOSE 70000`:                     "is not a port",
		`HEALTHCHECK curl`:                 "followed by CMD or NONE",
		`HEALTHCHECK CMD`:                  "needs a command",
		`HEALTHCHECK --interval=x CMD y`:   "invalid duration",
		`HEALTHCHECK --every=1s CMD y`:     "unknown option --every",
		`HEALTHCHECK --interval=1us CMD y`: "at least 1ms",
		`HEALTHCHECK --retries=many CMD y`: "not a number",
		`ONBUILD FROM x`:                   "cannot be an ONBUILD",
		`SHELL /bin/sh`:                    "needs the JSON form",
		`VOLUME [""]`:                      "empty path",
		`USER ""`:                          "is empty",
	} {
		c := ContainerConfig{Env: []string{"KEEP=1"}}
		err := c.Apply([]string{"ENV KEEP=2", change})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", change, err, want)
		}
		if c.Env[0] != "KEEP=1" {
			t.Errorf("%s: the config was changed", change)
		}
	}
}

func TestConfigKeepsWhatItDoesNotKnow(t *testing.T) {
	const in = `{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"Healthcheck":{"Test":["NONE"]},"MacAddress":"x","Tty":true},"rootfs":{"type":"layers","diff_ids":[]},"moby.buildkit.buildinfo.v1":"e30=","container":"abc"}`
	var c Config
	if err := json.Unmarshal([]byte(in), &c); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	json.Unmarshal([]byte(in), &a)
	json.Unmarshal(out, &b)
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if string(x) != string(y) {
		t.Errorf("config became %s", y)
	}
	if c.Config.Healthcheck == nil || c.Config.Env[0] != "A=1" || string(c.Config.Extra["Tty"]) != "true" {
		t.Errorf("config %+v", c.Config)
	}
	for _, null := range []string{`{"os":"linux","config":null,"rootfs":{}}`, `{"os":"linux","rootfs":{}}`} {
		if err := json.Unmarshal([]byte(null), &c); err != nil {
			t.Errorf("%s: %v", null, err)
		}
	}
}

func TestPlatforms(t *testing.T) {
	for in, want := range map[string]string{
		"linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "arm64/": "", "linux/arm64/v8": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/6": "linux/arm/v6", "armhf": "linux/arm/v7", "windows": "windows/" + hostPlatform().Architecture,
		"a/b/c/d": "", "LINUX/AMD64": "linux/amd64",
	} {
		p, err := ParsePlatform(in)
		if got := FormatPlatform(p); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s: %s, %v; want %q", in, got, err, want)
		}
	}
}

func TestFamiliarNames(t *testing.T) {
	for in, want := range map[string]string{
		"x": "x:latest", "library/x": "x:latest", "a/b:1": "a/b:1", "docker.io/a/b": "a/b:latest", "localhost:5000/x": "localhost:5000/x:latest", "ghcr.io/a/b:v1": "ghcr.io/a/b:v1",
	} {
		name, err := canonicalName(in)
		if err != nil || familiar(name) != want {
			t.Errorf("%s: %s, %v; want %s", in, familiar(name), err, want)
		}
	}
	for in, want := range map[string]string{"docker.io/library/x:1": "docker.io/library/x", "localhost:5000/x@sha256:ab": "localhost:5000/x", "localhost:5000/x": "localhost:5000/x"} {
		if got := repository(in); got != want {
			t.Errorf("repository of %s is %s", in, got)
		}
	}
}

func TestHistory(t *testing.T) {
	created := time.Unix(100, 0)
	img := Image{ID: "sha256:id", Names: []string{"x:latest"}}
	img.Config.History = []History{{Created: &created, CreatedBy: "ADD"}, {CreatedBy: "ENV", EmptyLayer: true}}
	img.Layers = append(img.Layers, content.Layer{}, content.Layer{})
	got, _ := json.Marshal(DockerHistory(img, []int64{5, 7}))
	want := `[{"Comment":"layer 2","Created":0,"CreatedBy":"","Id":"sha256:id","Size":7,"Tags":["x:latest"]},{"Comment":"","Created":0,"CreatedBy":"ENV","Id":"\u003cmissing\u003e","Size":0,"Tags":null},{"Comment":"","Created":100,"CreatedBy":"ADD","Id":"\u003cmissing\u003e","Size":5,"Tags":null}]`
	if string(got) != want {
		t.Errorf("history %s", got)
	}
}
