package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// wordLines are command lines of introductions to Docker, in an order in which they make
// sense, with docker's exit code and something that must be in what they print. D is the
// program, and they run where there is no project.
var wordLines = []struct {
	line string
	code int
	want string
}{
	// Images.
	{`D images`, 0, `(?m)^busybox:latest .*\d`},
	{`D image ls`, 0, `busybox:latest`},
	{`D images -q | wc -l`, 0, `^[1-9]`},
	{`D image inspect busybox --format '{{.Os}}'`, 0, `^linux\n$`},
	{`D inspect busybox | head -1`, 0, `^\[`},
	{`D history busybox`, 0, `^IMAGE`},
	{`D tag busybox app:1.0`, 0, `^$`},
	{`D rmi app:1.0`, 0, `Untagged: app:1.0`},
	{`D rmi nosuch`, 1, `[Nn]o such image`},
	{`D save -o f.tar busybox && D load -i f.tar`, 0, `Loaded image: busybox`},
	{`D save busybox > g.tar && D load < g.tar`, 0, `Loaded image`},
	{`D image prune -f`, 0, `Total reclaimed space`},
	{`D search nginx`, 1, `asks no registry`},
	{`D pull`, 1, `requires exactly 1 argument`},
	{`D logout nowhere.invalid`, 0, `nowhere.invalid`},
	// Build.
	{`printf 'FROM busybox AS base\nARG A=0\nRUN echo $A > /a\nFROM base\nCMD cat /a\n' > Dockerfile && D build -t app:1.0 --build-arg A=1 .`, 0, ``},
	{`D run --rm app:1.0`, 0, `^1\n$`},
	{`D build --target base -q -f Dockerfile .`, 0, `^sha256:`},
	{`D build`, 1, `requires 1 argument|requires exactly 1 argument`},
	{`D builder prune -f`, 0, `Total`},
	// Run.
	{`D run --rm busybox echo hi`, 0, `^hi\n$`},
	{`D run --rm busybox sh -c 'exit 7'`, 7, `^$`},
	{`D run --rm busybox nosuch`, 127, `not found`},
	{`D run --rm busybox /etc`, 126, `denied`},
	{`D run --no-such-flag busybox`, 125, `unknown flag: --no-such-flag`},
	{`D run`, 1, `requires at least 1 argument`},
	{`D run -d --name web -p 127.0.0.1::80 busybox sleep infinity`, 0, `^[0-9a-f]{64}\n$`},
	{`D run -d --name web busybox`, 125, `name is already in use by container`},
	{`D run --rm -v name:/data busybox sh -c 'echo kept > /data/f'`, 0, `^$`},
	{`D run --rm -v name:/data:ro busybox cat /data/f`, 0, `^kept\n$`},
	{`D run --rm -v "$(pwd):/app" -w /app busybox ls Dockerfile`, 0, `^Dockerfile\n$`},
	{`D run --rm --mount type=volume,source=name,target=/data busybox cat /data/f`, 0, `^kept`},
	{`D run --rm --tmpfs /tmp busybox mount`, 0, `tmpfs on /tmp type tmpfs`},
	{`echo B=2 > .env.x && D run --rm -e A=1 --env-file .env.x busybox env`, 0, `(?s)A=1.*B=2|B=2.*A=1`},
	{`D run --rm --network none busybox ip -o link`, 0, `^1: lo`},
	{`D run --rm --network container:web busybox hostname`, 0, `^[0-9a-f]{12}\n$`},
	{`D run --rm --restart on-failure:1 busybox true`, 125, `[Cc]onflicting options: cannot specify both --restart and --rm`},
	{`D run --rm --cpus=0.5 --memory=64m --read-only -u 1000:1000 --cap-drop=ALL --init --hostname h busybox sh -c 'id -u; hostname'`, 0, `^1000\nh\n$`},
	{`D run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status`, 0, `1`},
	{`D run --rm --entrypoint echo busybox entry`, 0, `^entry\n$`},
	{`D run --rm --log-opt max-size=10m --log-opt max-file=3 busybox true`, 0, ``},
	{`D run --rm --privileged busybox true`, 0, ``},
	// Containers.
	{`D ps`, 0, `(?s)^CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES\n.*web`},
	{`D ps -q`, 0, `^[0-9a-f]{12}\n$`},
	{`D create --name made busybox echo made`, 0, `^[0-9a-f]{64}\n$`},
	{`D create --name made busybox`, 1, `already in use`},
	{`D start -a made`, 0, `^made\n$`},
	{`D start -i made < /dev/null`, 0, `^made\n$`},
	{`D start nosuch`, 1, `[Nn]o such container`},
	{`D logs --tail 1 made`, 0, `^made\n$`},
	{`D logs -t made | head -1`, 0, `^\d{4}-\d\d-\d\dT.* made\n$`},
	{`D wait made`, 0, `^0\n$`},
	{`D rename made other && D inspect -f '{{.Name}}' other`, 0, `^/other\n$`},
	{`D exec web ps`, 0, `sleep infinity`},
	{`D exec web sh -c 'exit 3'`, 3, ``},
	{`D exec nosuch true`, 1, `[Nn]o such container`},
	{`D exec other true`, 1, `is not running`},
	{`D top web`, 0, `sleep infinity`},
	{`D port web`, 0, `^80/tcp -> 127.0.0.1:\d+\n$`},
	{`D stats --no-stream --format '{{.Name}}'`, 0, `^web\n$`},
	{`echo copied > c && D cp c web:/c && D exec web cat /c && D cp web:/c d && cat d`, 0, `copied\n(?s).*copied\n$`},
	{`D diff web`, 0, `A /c`},
	{`D commit web snapshot:1`, 0, `sha256:`},
	{`D export other | tar -t | grep -c bin/busybox`, 0, `1`},
	{`D export web > e.tar && D import e.tar flat:1`, 0, `sha256:`},
	{`D update --memory 32m --memory-swap 32m web`, 0, `^web\n$`},
	{`D pause web && D ps --format '{{.Status}}' && D unpause web`, 0, `Paused`},
	{`D restart -t 0 web`, 0, `^web\n$`},
	{`D kill web`, 0, `^web\n$`},
	{`D kill web`, 1, `is not running`},
	{`D start web && D stop -t 0 web`, 0, `^web\nweb\n$`},
	{`D rm nosuch`, 1, `[Nn]o such container`},
	{`D rm -f nosuch`, 0, ``},
	{`D start web && D rm web`, 1, `running`},
	{`D rm -f web`, 0, `^web\n$`},
	{`D events --since 10m --until 0s --filter event=die`, 0, `container die`},
	{`D run -d busybox sleep infinity && D rm -f $(D ps -aq) && D ps -aq | wc -l`, 0, `(?m)^0$`},
	{`D container prune -f`, 0, `Total reclaimed space`},
	// Networks, volumes, system.
	{`D network ls`, 0, `(?s)bridge.*host.*none`},
	{`D network create --driver bridge net`, 0, `^[0-9a-f]{64}\n$`},
	{`D run -d --name peer --network net busybox sleep infinity`, 0, ``},
	{`D run --rm --network net busybox nslookup -type=a peer`, 0, `Name:\s+peer`},
	{`D network inspect net -f '{{.Driver}}'`, 0, `^bridge\n$`},
	{`D network rm net`, 1, `active endpoints`},
	{`D network disconnect net peer && D network connect net peer`, 0, ``},
	{`D rm -f peer && D network rm net`, 0, `net`},
	{`D network prune -f`, 0, ``},
	{`D volume create v`, 0, `^v\n$`},
	{`D volume ls -q`, 0, `(?m)^v$`},
	{`D volume inspect v -f '{{.Driver}}'`, 0, `^local\n$`},
	{`D volume rm v`, 0, `^v\n$`},
	{`D volume prune -a -f`, 0, `name`},
	{`D version`, 0, `(?i)version`},
	{`D info`, 0, `Storage Driver`},
	{`D system df`, 0, `^TYPE`},
	{`D system prune -f`, 0, `Total reclaimed space`},
	// Compose, by both of its names.
	{`D compose up`, 1, `no Compose file|no configuration file`},
	{`mkdir -p p && printf 'services:\n  web:\n    image: busybox\n    command: sleep infinity\n    stop_signal: KILL\n' > p/compose.yaml && cd p && D compose up -d`, 0, `p-web-1`},
	{`cd p && D compose ps`, 0, `SERVICE`},
	{`cd p && D compose exec -T web echo inside`, 0, `^inside\n$`},
	{`cd p && D compose logs web && D compose top && D compose images && D compose config -q`, 0, ``},
	{`D ps --filter label=com.docker.compose.project=p --format '{{.Names}}'`, 0, `^p-web-1\n$`},
	{`D compose -f p/compose.yaml down -v`, 0, `Removed`},
}

// What people learnt from Docker's tutorials works, called as docker and as stack.
func TestWords(t *testing.T) {
	for _, name := range []string{"docker", "stack"} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "busybox:latest")
			link := filepath.Join(b.root, name)
			must(t, os.Symlink(shared.Stack, link))
			b.program = "/bin/sh"
			for _, l := range wordLines {
				script := regexp.MustCompile(`\bD\b`).ReplaceAllString(l.line, link)
				r := b.stack(t, "-c", script)
				if r.code != l.code || !regexp.MustCompile(l.want).MatchString(r.stdout+r.stderr) {
					t.Errorf("%s: must exit with %d and print %q: %v", l.line, l.code, l.want, fmt.Sprint(r))
				}
			}
			b.program = ""
		})
	}
}
