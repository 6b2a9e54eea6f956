package runner

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/executor"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/build"
)

func TestHostsFile(t *testing.T) {
	extra := []executor.HostIP{{Host: "a", IP: net.ParseIP("10.0.0.1")}, {Host: "gw", IP: net.ParseIP(build.HostGateway)}}
	want := "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\ta\n172.17.0.1\tgw\n"
	if got := string(hostsFile("box", extra, "172.17.0.1")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := string(hostsFile("", nil, "")); got != "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n" {
		t.Errorf("%q", got)
	}
}

func TestExitError(t *testing.T) {
	ctx := context.Background()
	gone, cancel := context.WithCancelCause(ctx)
	reason := errors.New("the client went away")
	cancel(reason)
	memory := errors.New("out of memory")
	for _, test := range []struct {
		ctx   context.Context
		valid []int
		code  int
		cause error
		want  string // "" for no error
	}{
		{ctx, nil, 0, nil, ""},
		{ctx, nil, 3, nil, "exit code: 3"},
		{ctx, []int{3}, 3, nil, ""},
		{ctx, []int{3}, 0, nil, "exit code: 0"},
		{ctx, nil, 137, memory, "out of memory"},
		{gone, nil, 137, nil, "the client went away: exit code: 137"},
	} {
		err := exitError(test.ctx, test.valid, test.code, test.cause)
		if got := text(err); got != test.want {
			t.Errorf("exit code %d: %q, want %q", test.code, got, test.want)
		}
		var exit *gatewayapi.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode != uint32(test.code)) {
			t.Errorf("exit code %d: %v does not carry it", test.code, err)
		}
	}
	if err := exitError(gone, nil, 137, nil); !errors.Is(err, reason) {
		t.Errorf("%v does not wrap the reason", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAdapt(t *testing.T) {
	make := func(uid uint32) *specs.Spec {
		return &specs.Spec{
			Process: &specs.Process{User: specs.User{UID: uid}, Capabilities: &specs.LinuxCapabilities{
				Bounding: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_CHOWN"}, Inheritable: []string{"CAP_CHOWN"}}},
			Linux: &specs.Linux{Resources: &specs.LinuxResources{}},
		}
	}
	root := make(0)
	adapt(root, pb.SecurityMode_SANDBOX)
	if c := root.Process.Capabilities; len(c.Effective) != 1 || len(c.Ambient) != 0 || len(c.Inheritable) != 0 {
		t.Errorf("root has %+v", c)
	}
	if len(root.Linux.Resources.Devices) < 2 || root.Linux.Resources.Devices[0].Allow {
		t.Errorf("devices are %+v", root.Linux.Resources.Devices)
	}
	if len(root.Linux.Namespaces) != 1 || root.Linux.Namespaces[0].Type != specs.CgroupNamespace {
		t.Errorf("namespaces are %+v", root.Linux.Namespaces)
	}
	user := make(12)
	adapt(user, pb.SecurityMode_SANDBOX)
	if c := user.Process.Capabilities; len(c.Effective) != 0 || len(c.Permitted) != 0 || len(c.Bounding) != 1 {
		t.Errorf("another user has %+v", c)
	}
	insecure := make(0)
	adapt(insecure, pb.SecurityMode_INSECURE)
	if len(insecure.Linux.MaskedPaths) != 0 {
		t.Errorf("an insecure command has masked paths %v", insecure.Linux.MaskedPaths)
	}
}

func TestHomeOfABuildCommand(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		env  []string
		uid  uint32
		want string
	}{
		{nil, 0, "HOME=/root"},
		{nil, 33, "HOME=/var/www"},
		{nil, 1234, "HOME=/"},
		{[]string{"HOME=/mine"}, 0, "HOME=/mine"},
	} {
		got := withHome(tt.env, root, tt.uid)
		if len(got) != 1 || got[0] != tt.want {
			t.Errorf("of user %d with %q: %q, want %q", tt.uid, tt.env, got, tt.want)
		}
	}
	if got := withHome(nil, t.TempDir(), 0); got[0] != "HOME=/" {
		t.Errorf("without users: %q", got)
	}
}
