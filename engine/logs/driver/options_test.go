package driver

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stack-run/stack/engine/logs"
)

func TestParse(t *testing.T) {
	standard := logs.DefaultBudget()
	for _, c := range []struct {
		driver  string
		options string // NAME=VALUE, separated by blanks
		want    logs.Budget
		warns   string // a part of the only warning
		bad     string // a part of the error
	}{
		{driver: "", want: standard},
		{driver: "json-file", options: "max-size=20m", want: logs.Budget{MaxSize: 20 << 20, MaxFiles: 5}},
		{driver: "local", options: "max-size=1.5KB", want: logs.Budget{MaxSize: 1536, MaxFiles: 5}},
		{driver: "local", options: "max-size=-1", want: logs.Budget{MaxSize: -1, MaxFiles: 5}},
		{driver: "local", options: "max-file=1", want: logs.Budget{MaxSize: 10 << 20, MaxFiles: 1}},
		{driver: "local", options: "max-file=0", bad: "number of at least 1"},
		{driver: "local", options: "max-size=ten", bad: "not a size"},
		{driver: "local", options: "max-size=0", bad: "not a size"},
		{driver: "local", options: "max-sizes=1", bad: "known are compress, env,"},
		{driver: "local", options: "compress=true", want: standard},
		{driver: "local", options: "compress=maybe", bad: "neither true nor false"},
		{driver: "local", options: "compress=true max-file=1", bad: "use 2 or more"},
		{driver: "local", options: "mode=blocking", want: standard},
		{driver: "local", options: "mode=non-blocking", want: standard, warns: "nothing waits for driver local"},
		{driver: "local", options: "mode=sometimes", bad: "neither blocking nor non-blocking"},
		{driver: "none", options: "max-size=1m", want: noneBudget(), warns: "max-size has no effect"},
		{driver: "local", options: "labels-regex=(", bad: "labels-regex"},
		{driver: "local", options: "tag={{.Nmae}}", bad: "Nmae"},
		{driver: "local", options: "tag={{", bad: "no template"},
		{driver: "local", options: "tag={{upper(.Name)}}-{{.ID|truncate(4)}}", bad: "no template"},
		{driver: "local", options: "tag={{.ID}}/{{.DaemonName}}", want: standard},

		{driver: "awslogs", options: "awslogs-group=x", want: standard, warns: "Fluent Bit"},
		{driver: "splunk", want: standard, warns: "not supported"},
		{driver: "sylog", bad: "unknown logging driver"},

		{driver: "journald", options: "tag={{.Name}} labels=a env=B", want: standard},
		{driver: "journald", options: "cache-max-size=1m cache-max-file=2 cache-compress=true", want: logs.Budget{MaxSize: 1 << 20, MaxFiles: 2}},
		{driver: "journald", options: "cache-disabled=true", want: standard, warns: "cache-disabled has no effect"},
		{driver: "journald", options: "cache-disabled=false", want: standard},
		{driver: "journald", options: "max-size=1m", bad: "known are cache-compress"},
		{driver: "journald", options: "mode=non-blocking max-buffer-size=4m", want: standard},
		{driver: "journald", options: "max-buffer-size=4m", bad: "needs mode: non-blocking"},

		{driver: "syslog", want: standard},
		{driver: "syslog", options: "syslog-address=udp://1.2.3.4", want: standard},
		{driver: "syslog", options: "syslog-address=http://1.2.3.4", bad: "begins with none of udp://"},
		{driver: "syslog", options: "syslog-address=tcp://1.2.3.4:70000", bad: "no number from 1 to 65535"},
		{driver: "syslog", options: "syslog-address=tcp:///x", bad: "no address"},
		{driver: "syslog", options: "syslog-address=unix:///run/log", want: standard},
		{driver: "syslog", options: "syslog-address=unixgram://", bad: "names no socket"},
		{driver: "syslog", options: "syslog-facility=local7 syslog-format=rfc5424micro", want: standard},
		{driver: "syslog", options: "syslog-facility=24", bad: "no facility"},
		{driver: "syslog", options: "syslog-format=rfc1", bad: "use rfc3164"},
		{driver: "syslog", options: "syslog-tls-cert=/x", bad: "come together"},

		{driver: "fluentd", want: standard},
		{driver: "fluentd", options: "fluentd-address=host fluentd-async=true fluentd-sub-second-precision=true", want: standard},
		{driver: "fluentd", options: "fluentd-address=udp://host", bad: "none of tcp://, tls://, unix://"},
		{driver: "fluentd", options: "fluentd-address=tcp://host/path", bad: "path behind the port"},
		{driver: "fluentd", options: "fluentd-retry-wait=5", bad: "no duration"},
		{driver: "fluentd", options: "fluentd-async-reconnect-interval=1m", bad: "out of range"},
		{driver: "fluentd", options: "fluentd-buffer-limit=8MB", want: standard, warns: "fluentd-buffer-limit has no effect"},
		{driver: "fluentd", options: "fluentd-max-retries=-1", bad: "fluentd-max-retries"},

		{driver: "gelf", bad: "gelf-address: it is missing"},
		{driver: "gelf", options: "gelf-address=udp://host", bad: "has no port"},
		{driver: "gelf", options: "gelf-address=udp://host:12201 gelf-compression-type=zlib gelf-compression-level=9", want: standard},
		{driver: "gelf", options: "gelf-address=udp://host:12201 gelf-compression-level=10", bad: "from -1 to 9"},
		{driver: "gelf", options: "gelf-address=tcp://host:12201 gelf-compression-type=gzip", bad: "for udp only"},
		{driver: "gelf", options: "gelf-address=tcp://host:12201 gelf-tcp-max-reconnect=3", want: standard, warns: "gelf-tcp-max-reconnect has no effect"},
	} {
		values := map[string]string{}
		for pair := range strings.FieldsSeq(c.options) {
			name, value, _ := strings.Cut(pair, "=")
			values[name] = value
		}
		d, warnings, err := Parse(c.driver, values)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s %s: %v", c.driver, c.options, err)
			}
			continue
		}
		if err != nil || d.Budget != c.want {
			t.Errorf("%s %s: %+v, %v", c.driver, c.options, d.Budget, err)
		}
		if text := strings.Join(warnings, "; "); (text == "") != (c.warns == "") || !strings.Contains(text, c.warns) || len(warnings) > 1 {
			t.Errorf("%s %s: warns %q", c.driver, c.options, warnings)
		}
	}
}

func TestWhere(t *testing.T) {
	for _, c := range []struct{ driver, option, value, want string }{
		{"journald", "", "", "journald at unixgram:/run/systemd/journal/socket"},
		{"syslog", "", "", "syslog at unixgram:/dev/log"},
		{"syslog", "syslog-address", "udp://[2001:db8::1]", "syslog at udp:[2001:db8::1]:514"},
		{"syslog", "syslog-address", "tcp+tls://host:6514", "syslog at tcp+tls:host:6514"},
		{"syslog", "syslog-address", "unix:///run/log", "syslog at unix:/run/log"},
		{"fluentd", "", "", "fluentd at tcp:127.0.0.1:24224"},
		{"fluentd", "fluentd-address", "host:1", "fluentd at tcp:host:1"},
		{"fluentd", "fluentd-address", ":1", "fluentd at tcp:127.0.0.1:1"},
		{"fluentd", "fluentd-address", "tls://host", "fluentd at tcp+tls:host:24224"},
		{"fluentd", "fluentd-address", "unix:///run/fluent", "fluentd at unix:/run/fluent"},
		{"gelf", "gelf-address", "tcp://host:12201", "gelf at tcp:host:12201"},
	} {
		values := map[string]string{}
		if c.option != "" {
			values[c.option] = c.value
		}
		d, _, err := Parse(c.driver, values)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if got := d.Target.String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestTag(t *testing.T) {
	i := web()
	for text, want := range map[string]string{
		"{{.ID}}": "0123456789ab", "{{.FullID}}": i.ContainerID, "{{.Name}}": "shop-web-1", "{{.ImageID}}": "sha256:fedcb", "{{.ImageFullID}}": i.ContainerImageID,
		"{{.ImageName}}": "web:1", "{{.DaemonName}}": "stack", "{{.Command}}": "/web --port 80", "{{.ImageName}}/{{.Name}}/{{.ID}}": "web:1/shop-web-1/0123456789ab",
		"{{upper .Name}}": "SHOP-WEB-1", "{{truncate .FullID 4}}": "0123", "{{pad .Name 1 2}}": " shop-web-1  ", `{{index .ContainerLabels "team"}}`: "blue",
		`{{join (split .Name "-") "."}}`: "shop.web.1", "{{json .Name}}": `"shop-web-1"`, `{{title "a bc"}}`: "A Bc", "web": "web",
	} {
		if got, err := i.tag(text); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	i := web()
	i.Config = map[string]string{"labels": "team,none", "env": "MODE", "labels-regex": "^com\\.", "env-regex": "^LC_"}
	got, err := i.Attributes(strings.ToUpper)
	want := map[string]string{"TEAM": "blue", "COM.EXAMPLE": "yes", "MODE": "fast", "LC_ALL": "C=x"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// What a tag says of a container may depend on the container.
func TestTagOfAnotherContainer(t *testing.T) {
	if _, _, err := Parse("local", map[string]string{"tag": `{{index (split .Name "-") 7}}`}); err != nil {
		t.Error(err)
	}
}

func web() *Info {
	i := sample()
	i.ContainerName, i.ContainerImageName, i.ContainerEntrypoint, i.ContainerArgs = "/shop-web-1", "web:1", "/web", []string{"--port", "80"}
	i.ContainerImageID = "sha256:fedcba9876543210"
	i.ContainerLabels = map[string]string{"team": "blue", "com.example": "yes", "other": "x"}
	i.ContainerEnv = []string{"MODE=fast", "LC_ALL=C=x", "HOME=/"}
	return i
}
