package main

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report collects results and prints them as Markdown.
type report struct {
	versions map[string]string
	rows     []row
	userNS   []row // by user namespace instead of side
	memories []memoryRow
	watches  []watchRow
	failures []string
	began    time.Time
}

type row struct {
	name string
	by   map[string]summary
}

type memoryRow struct {
	who, what             string
	containers, processes int
	bytes                 int64
}

func newReport() *report { return &report{versions: map[string]string{}, began: time.Now()} }

// broken notes, and says at once, that a side or a part of it cannot be measured.
func (r *report) broken(who string, err error) {
	text := fmt.Sprintf("%s is not measured: %v", who, err)
	fmt.Fprintln(os.Stderr, "bench:", text)
	r.failures = append(r.failures, text)
}

func (r *report) add(name string, results map[string][]result) {
	line := row{name: name, by: map[string]summary{}}
	for _, who := range slices.Sorted(maps.Keys(results)) {
		s := summarize(results[who])
		line.by[who] = s
		if s.err != nil {
			r.broken(who+", "+name, s.err)
		}
	}
	r.rows = append(r.rows, line)
	fmt.Fprintf(os.Stderr, "%-42s Docker %-26s stack %-26s floor %s\n", name, line.cell("Docker"), line.cell("stack"), line.cell("floor"))
}

// compare adds what user namespaces cost.
func (r *report) compare(name string, results map[string][]result) {
	line := row{name: strings.TrimPrefix(name, "userns: "), by: map[string]summary{}}
	for who, all := range results {
		line.by[who] = summarize(all)
		if err := line.by[who].err; err != nil {
			r.broken(who+", "+name, err)
		}
	}
	r.userNS = append(r.userNS, line)
	fmt.Fprintf(os.Stderr, "%-42s host %-26s auto %-26s ratio %s\n", name, line.cell(hostUserNS), line.cell(autoUserNS), line.ratio(autoUserNS, hostUserNS))
}

func (r *report) watch(row watchRow) {
	r.watches = append(r.watches, row)
	fmt.Fprintf(os.Stderr, "%-42s %-6s median %s, p99 %s, %d watches, idle CPU %s\n", watchName, row.who, ms(percentile(row.times, 50)), ms(percentile(row.times, 99)), row.watches, row.idle)
}

func (r *report) memory(row memoryRow) {
	r.memories = append(r.memories, row)
	fmt.Fprintf(os.Stderr, "memory, %-28s %s: %d processes, %.1f MiB\n", row.what, row.who, row.processes, mib(row.bytes))
}

func (l row) cell(who string) string {
	s, ok := l.by[who]
	if !ok || s.n == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", ms(s.median), ms(s.min), ms(s.max))
}

// ratio is how many times one takes as long as another, "" if one is unknown.
func (l row) ratio(of, to string) string {
	a, b := l.by[of], l.by[to]
	if a.n == 0 || b.n == 0 {
		return "–"
	}
	q := float64(a.median) / float64(b.median)
	if q < 2 {
		return fmt.Sprintf("%.2f", q)
	}
	return fmt.Sprintf("%.1f", q)
}

func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func (r *report) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# stack beside Docker\n\nMade by `go run ./e2e/bench -write e2e/bench/RESULTS.md` on %s.\n\n", r.began.UTC().Format("2006-01-02"))
	fmt.Fprintf(&out, "- machine: %s\n", machine())
	for _, who := range slices.Sorted(maps.Keys(r.versions)) {
		fmt.Fprintf(&out, "- %s: %s\n", who, r.versions[who])
	}
	out.WriteString("- floor: the kernel's work alone (namespaces, overlay, veth pair, exec, wait); of a start, a Go program that does nothing\n")
	out.WriteString("- both sides do the same in turn, on one image, in one run; times are wall-clock milliseconds of the whole command: median (min–max)\n\n")
	out.WriteString("| | Docker | stack | Docker ÷ stack | floor | stack ÷ floor | n |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, l := range r.rows {
		n := 0
		for _, s := range l.by {
			n = max(n, s.n)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s | %d |\n",
			l.name, l.cell("Docker"), l.cell("stack"), l.ratio("Docker", "stack"), l.cell("floor"), l.ratio("stack", "floor"), n)
	}
	if len(r.memories) > 0 {
		out.WriteString("\nMemory of the engine's own processes while the containers idle (PSS, `/proc/PID/smaps_rollup`):\n\n| | | containers | processes | MiB |\n|---|---|---:|---:|---:|\n")
		for _, m := range r.memories {
			fmt.Fprintf(&out, "| %s | %s | %d | %d | %.1f |\n", m.what, m.who, m.containers, m.processes, mib(m.bytes))
		}
	}
	if len(r.watches) > 0 {
		fmt.Fprintf(&out, "\n`watch` of a tree of %d files: from a write on the host to the byte in the container, in milliseconds, and what it takes while nothing happens:\n\n", watchDirs*filesPerDir)
		fmt.Fprintf(&out, "| | median | p99 | max | n | inotify watches | CPU in %v |\n|---|---:|---:|---:|---:|---:|---:|\n", watchIdle)
		for _, w := range r.watches {
			fmt.Fprintf(&out, "| %s | %s | %s | %s | %d | %d | %v |\n", w.who, ms(percentile(w.times, 50)), ms(percentile(w.times, 99)), ms(percentile(w.times, 100)), len(w.times), w.watches, w.idle)
		}
	}
	if len(r.userNS) > 0 {
		out.WriteString("\nWhat a user namespace costs, stack beside itself (`userns_mode: host` and `auto`):\n\n| | host | auto | auto ÷ host | n |\n|---|---:|---:|---:|---:|\n")
		for _, l := range r.userNS {
			fmt.Fprintf(&out, "| %s | %s | %s | %s | %d |\n", l.name, l.cell(hostUserNS), l.cell(autoUserNS), l.ratio(autoUserNS, hostUserNS), l.by[autoUserNS].n)
		}
	}
	if len(r.failures) > 0 {
		out.WriteString("\nNot measured:\n\n")
		for _, f := range r.failures {
			fmt.Fprintf(&out, "- %s\n", strings.ReplaceAll(f, "\n", " "))
		}
	}
	return out.String()
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	cgroup := "v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroup = "v2"
	}
	return fmt.Sprintf("Linux %s %s, %d CPUs, cgroup %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH, runtime.NumCPU(), cgroup)
}
