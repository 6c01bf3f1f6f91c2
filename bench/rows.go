//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// part is a part of the run: contenders that take turns, and the rows that
// come of it.
type part struct {
	name string
	run  func() ([]row, error)
}

var parts []part

func init() {
	parts = []part{
		{"limit", limitPart}, {"peers", peersPart}, {"page", pagePart}, {"output", outputPart}, {"upload", uploadPart},
		{"clients", clientsPart}, {"idle", idlePart}, {"memory", memoryPart}, {"start", startPart}, {"sleep", sleepPart},
	}
}

func names() (list []string) {
	for _, p := range parts {
		list = append(list, p.name)
	}
	return list
}

// limitPart compares with what fork, exec and wait cost without anything else.
func limitPart() ([]row, error) {
	off, err := startOnewake(nil, program("tiny"))
	if err != nil {
		return nil, err
	}
	defer off.stop()
	on, err := startOnewake([]string{"-access-log"}, program("tiny"))
	if err != nil {
		return nil, err
	}
	defer on.stop()
	many, err := startOnewake([]string{"-max-procs", "32"}, program("tiny"))
	if err != nil {
		return nil, err
	}
	defer many.stop()
	if err := warm(off, on, many); err != nil {
		return nil, err
	}
	s, err := interleave(rounds,
		theLimit("limit", all, window), loaded("8 clients", off, load{Clients: 8}), loaded("log", on, load{Clients: 8}),
		loaded("32 clients", many, load{Clients: 32}),
		theLimit("one loop", 1, window), loaded("1 client", off, load{Clients: 1}))
	if err != nil {
		return nil, err
	}
	var rows []row
	r := s.compare("CPU of monitor + core per request, of the limit's per process, 8 clients", "8 clients", "limit", cpu, "µs")
	r.Target, r.AtMost = 0.33, true
	rows = append(rows, r)
	r = s.compare("the same at 1 client", "1 client", "one loop", cpu, "µs")
	r.Target, r.AtMost = 0.5, true
	rows = append(rows, r)
	r = s.compare("requests/s direct, of the limit's processes/s", "8 clients", "limit", rate, "/s")
	r.Target = 0.65
	rows = append(rows, r)
	r = s.compare("the same with 32 clients and -max-procs 32", "32 clients", "limit", rate, "/s")
	r.Target = 0.65
	rows = append(rows, r)
	rows = append(rows, row{What: "p99 of the latency at 8 clients, of its median", Target: 3, AtMost: true,
		Ours:      median(s.of("8 clients", func(s sample) float64 { return s.P99 }), "µs"),
		Reference: median(s.of("8 clients", func(s sample) float64 { return s.Median }), "µs"),
		Value:     spreadOf(s.of("8 clients", func(s sample) float64 { return s.P99 / s.Median }))})
	r = s.compare("access log on, of off", "log", "8 clients", rate, "/s")
	r.Target = 0.95
	rows = append(rows, r)
	for _, n := range []string{"8 clients", "1 client"} {
		remark("CPU of a request, %s: monitor %s, core %s; load generator %s", n,
			median(s.of(n, func(s sample) float64 { return s.monitor }), "µs"),
			median(s.of(n, func(s sample) float64 { return s.core }), "µs"),
			median(s.of(n, func(s sample) float64 { return s.Own }), "µs"))
	}
	for _, n := range []string{"limit", "one loop"} {
		remark("CPU of a process, %s: own part %s of %s", n,
			median(s.of(n, func(s sample) float64 { return s.own }), "µs"), median(s.of(n, cpu), "µs"))
	}
	for _, n := range []string{"limit", "8 clients", "32 clients"} {
		remark("CPUs idle, %s: %s", n, median(s.of(n, idle), "%"))
	}
	return rows, nil
}

// theClients is how many clients there are at most.
var theClients = []int{1, 8, 64, 256, 1024}

// peersPart compares with other ways to put a CGI program behind a web server.
func peersPart() ([]row, error) {
	var missing []string
	have := func(name string) bool {
		if find(name) != "" {
			return true
		}
		missing = append(missing, name)
		return false
	}
	script := program("tiny.cgi")
	var cs []contender
	var stops []*server
	defer func() {
		for _, s := range slices.Backward(stops) {
			s.stop()
		}
	}()
	add := func(name string, s *server, err error) error {
		if err != nil {
			return err
		}
		stops = append(stops, s)
		if b, err := s.fetch("/"); err != nil || !bytes.Contains(b, []byte("Hello world!")) {
			return fmt.Errorf("%s: answer %q: %w", name, b, err)
		}
		if err := warm(s); err != nil {
			return err
		}
		cs = append(cs, loaded(name, s, load{Clients: 8}))
		return nil
	}
	ow, err := startOnewake([]string{"-cgi"}, script)
	if err := add(peerDirect, ow, err); err != nil {
		return nil, err
	}
	wrk, nginx := have("wrk"), have("nginx")
	if nginx {
		n, err := nginxOnewake(ow)
		if n != nil {
			n.behind = ow
		}
		if err := add(peerOnewake, n, err); err != nil {
			return nil, err
		}
		if wrk {
			cs = append(cs, byWrk(peerOnewake+", wrk", n))
		}
	}
	var floors []string
	for _, kind := range theFloors {
		if !nginx {
			break
		}
		f, err := startFloor(kind)
		if err := add(floorDirect(kind), f, err); err != nil {
			return nil, err
		}
		n, err := nginxOnewake(f)
		if n != nil {
			n.behind = f
		}
		if err := add(floorNginx(kind), n, err); err != nil {
			return nil, err
		}
		floors = append(floors, floorNginx(kind))
	}
	if have("fcgiwrap") && nginx {
		fw, err := startFcgiwrap()
		if err != nil {
			return nil, err
		}
		stops = append(stops, fw)
		n, err := nginxFcgiwrap(fw, script)
		if n != nil {
			n.behind = fw
		}
		if err := add(peerFcgiwrap, n, err); err != nil {
			return nil, err
		}
		if wrk {
			cs = append(cs, byWrk(peerFcgiwrap+", wrk", n))
		}
	}
	if have("lighttpd") {
		s, err := startLighttpd(script)
		if err := add(peerLighttpd, s, err); err != nil {
			return nil, err
		}
	}
	if have("apache2") {
		s, err := startApache(script)
		if err := add(peerApache, s, err); err != nil {
			return nil, err
		}
	}
	if have("shell2http") {
		s, err := startShell2http(script)
		if err := add(peerShell2http, s, err); err != nil {
			return nil, err
		}
	}
	s, err := interleave(rounds, cs...)
	if err != nil {
		return nil, err
	}
	drawn = s
	// The fastest is the floor, so that none is low for want of trying.
	const floor = "the floor behind nginx"
	split := floorNginx("split")
	if len(floors) > 0 {
		best := s.best(floors)
		s[floor] = s[best]
		remark("the floor behind nginx is %s", best)
	}
	var rows []row
	for _, p := range []struct {
		ours, peer string
		target     float64
	}{
		{peerOnewake, peerFcgiwrap, 1.4}, {peerOnewake + ", wrk", peerFcgiwrap + ", wrk", 1.4},
		{floor, peerFcgiwrap, 0}, {split, peerFcgiwrap, 0},
		{peerOnewake, peerLighttpd, 1}, {floor, peerLighttpd, 0}, {split, peerLighttpd, 0}, {peerDirect, peerLighttpd, 0},
		{peerOnewake, floor, 0}, {peerOnewake, split, 0},
		{peerOnewake, peerApache, 1}, {peerOnewake, peerShell2http, 1},
	} {
		if s[p.ours] == nil || s[p.peer] == nil {
			continue
		}
		r := s.compare(p.ours+": requests/s, of "+p.peer, p.ours, p.peer, rate, "/s")
		if r.Target = p.target; p.target == 0 {
			r.Note = "for comparison"
		}
		rows = append(rows, r)
	}
	for _, c := range cs {
		tree, command := s.of(c.name, func(s sample) float64 { return s.tree }), s.of(c.name, func(s sample) float64 { return s.command })
		if tree[0] == 0 {
			continue // by wrk
		}
		known := "not known, as the system reaps it"
		if spreadOf(command).Median > 50 {
			known = median(command, "µs")
		}
		remark("%s: %s; CPU of a request: servers %s, command %s, load generator %s; CPUs idle %s", c.name, median(s.of(c.name, rate), "requests/s"),
			median(tree, "µs"), known, median(s.of(c.name, func(s sample) float64 { return s.Own }), "µs"), median(s.of(c.name, idle), "%"))
	}
	if len(missing) > 0 {
		return rows, missingError(strings.Join(missing, ", "))
	}
	return rows, nil
}

// Names of peers, as the rows and the picture have them.
const (
	peerDirect     = "onewake direct"
	peerOnewake    = "onewake behind nginx"
	peerFcgiwrap   = "fcgiwrap behind nginx"
	peerLighttpd   = "lighttpd mod_cgi"
	peerApache     = "Apache mod_cgid"
	peerShell2http = "shell2http"
)

// theFloors are the kinds of floor.c.
var theFloors = []string{"fork", "epoll", "split"}

func floorDirect(kind string) string { return "floor " + kind + " direct" }

func floorNginx(kind string) string { return "floor " + kind + " behind nginx" }

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)
	wrkFailed = regexp.MustCompile(`Non-2xx.*|Socket errors.*`)
)

// byWrk is load by wrk(1), to check our own load generator.
func byWrk(name string, s *server) contender {
	return contender{name, func() (sample, error) {
		seconds := max(1, int(math.Round(window.Seconds())))
		b, err := exec.Command(find("wrk"), "-t1", "-c8", "-d"+strconv.Itoa(seconds)+"s", "http://"+s.address+"/").Output()
		if err != nil {
			return sample{}, err
		}
		if m := wrkFailed.Find(b); m != nil {
			return sample{}, errors.New(string(m))
		}
		m := wrkRate.FindSubmatch(b)
		if m == nil {
			return sample{}, fmt.Errorf("cannot read %q", b)
		}
		rate, err := strconv.ParseFloat(string(m[1]), 64)
		return sample{rate: rate}, err
	}}
}

// pagePart compares the test page with a net/http handler that sends the same
// bytes.
func pagePart() ([]row, error) {
	ow, err := startOnewake(nil)
	if err != nil {
		return nil, err
	}
	defer ow.stop()
	page, err := ow.fetch("/")
	if err != nil {
		return nil, err
	}
	_, page, _ = bytes.Cut(page, []byte("\r\n\r\n"))
	file := place(".page")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		return nil, err
	}
	bare, err := startBare("page", file)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	if err := warm(ow, bare); err != nil {
		return nil, err
	}
	s, err := interleave(rounds, loaded("ow", ow, load{Clients: 8}), loaded("bare", bare, load{Clients: 8}))
	if err != nil {
		return nil, err
	}
	r := s.compare("test page: requests/s, of a bare net/http handler", "ow", "bare", rate, "/s")
	r.Target = 0.95
	remark("CPU of a request, test page: core %s, net/http %s", median(s.of("ow", cpu), "µs"), median(s.of("bare", cpu), "µs"))
	return []row{r}, nil
}

// outputPart compares large output with a C program that copies it.
func outputPart() ([]row, error) {
	var rows []row
	cat, err := exec.LookPath("cat")
	if err != nil {
		return nil, err
	}
	for _, megabyte := range []int{1, 100} {
		file, socket := place(".out"), place(".sock")
		if err := os.WriteFile(file, make([]byte, megabyte*1e6), 0o600); err != nil {
			return rows, err
		}
		defer os.Remove(file)
		ow, err := startOnewake(nil, cat, file)
		if err != nil {
			return rows, err
		}
		defer ow.stop()
		pump, err := startServer("pump", "unix", socket, []string{program("pump"), socket, file})
		if err != nil {
			return rows, err
		}
		defer pump.stop()
		s, err := interleave(rounds, loaded("ow", ow, load{Clients: 1}), loaded("pump", pump, load{Clients: 1}))
		if err != nil {
			return rows, err
		}
		r := s.compare(fmt.Sprintf("%d MB of output, of cat through a pipe", megabyte), "ow", "pump", megabytes, "MB/s")
		r.Target = 0.9
		rows = append(rows, r)
	}
	return rows, nil
}

// uploadPart compares a large body with a net/http handler that copies it.
func uploadPart() ([]row, error) {
	wc, err := exec.LookPath("wc")
	if err != nil {
		return nil, err
	}
	ow, err := startOnewake([]string{"-max-body", "200MiB"}, wc, "-c")
	if err != nil {
		return nil, err
	}
	defer ow.stop()
	bare, err := startBare("upload", wc)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	up := load{Clients: 1, Method: "POST", Body: 100e6}
	s, err := interleave(rounds, loaded("ow", ow, up), loaded("bare", bare, up))
	if err != nil {
		return nil, err
	}
	sent := func(s sample) float64 { return s.rate * 100 }
	r := s.compare("100 MB of upload into wc -c, of a bare net/http handler", "ow", "bare", sent, "MB/s")
	r.Target = 0.9
	return []row{r}, nil
}

// clientsPart compares numbers of clients with the best of them.
func clientsPart() ([]row, error) {
	ow, err := startOnewake([]string{"-max-queue", "4096"}, program("tiny"))
	if err != nil {
		return nil, err
	}
	defer ow.stop()
	if err := warm(ow); err != nil {
		return nil, err
	}
	var cs []contender
	var list []string
	for _, n := range theClients {
		if uint64(n)+200 > raiseFiles() {
			remark("%d clients left out: too few descriptors", n)
			continue
		}
		list = append(list, strconv.Itoa(n))
		cs = append(cs, loaded(strconv.Itoa(n), ow, load{Clients: n}))
	}
	s, err := interleave(rounds, cs...)
	if err != nil {
		return nil, err
	}
	best := s.best(list)
	var rows []row
	for _, n := range list {
		r := s.compare(n+" clients: requests/s, of the best", n, best, rate, "/s")
		r.Reference += " at " + best
		if r.Target = 0.9; n == "1" {
			r.Target, r.Note = 0, "for comparison"
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// few is the number of rounds of parts whose numbers vary little.
func few() int { return min(rounds, 3) }

// idlePart measures what a connection costs that has had its answer and waits.
func idlePart() ([]row, error) {
	n := 10_000
	if most := int(raiseFiles()) - 500; most < n {
		n = most
	}
	if n < 100 {
		return nil, errors.New("too few descriptors for idle connections")
	}
	var values, before []float64
	note := ""
	for range few() {
		ow, err := startOnewake(nil, program("tiny"))
		if err != nil {
			return nil, err
		}
		defer ow.stop()
		if err := warm(ow); err != nil {
			return nil, err
		}
		empty, _, err := ow.memory()
		if err != nil {
			return nil, err
		}
		p, err := load{Network: ow.network, Address: ow.address, Clients: n, Requests: n, InFlight: 8, Hold: true}.start()
		if err != nil {
			return nil, err
		}
		_, err = p.result()
		full, proportional, e := ow.memory()
		if err := errors.Join(err, e, p.end()); err != nil {
			return nil, err
		}
		ow.stop()
		values = append(values, (full-empty)/1024/float64(n))
		before = append(before, empty/1e6)
		note = memoryKind(proportional)
	}
	return []row{{What: fmt.Sprintf("memory of each of %d idle connections", n), Unit: " KiB", Value: spreadOf(values),
		Ours: median(before, "MB without"), Target: 12, AtMost: true, Note: note}}, nil
}

func memoryKind(proportional bool) string {
	if proportional {
		return ""
	}
	return "resident, as proportional memory may not be read"
}

// memoryPart measures both processes' memory.
func memoryPart() ([]row, error) {
	var idle, after []float64
	note := ""
	for range few() {
		ow, err := startOnewake(nil, program("tiny"))
		if err != nil {
			return nil, err
		}
		defer ow.stop()
		time.Sleep(500 * time.Millisecond)
		a, proportional, err := ow.memory()
		if err != nil {
			return nil, err
		}
		for _, n := range []int{8, 256} {
			if _, err := (load{Network: ow.network, Address: ow.address, Clients: n, Duration: 2 * window}).run(); err != nil {
				return nil, err
			}
		}
		b, _, err := ow.memory()
		if err != nil {
			return nil, err
		}
		ow.stop()
		idle, after = append(idle, a/1e6), append(after, b/1e6)
		note = memoryKind(proportional)
	}
	return []row{
		{What: "memory of both processes, idle", Unit: " MB", Value: spreadOf(idle), Target: 16, AtMost: true, Note: note},
		{What: "memory of both processes, after load", Unit: " MB", Value: spreadOf(after), Target: 24, AtMost: true, Note: note},
	}, nil
}

// startPart measures the time from exec to the first answer.
func startPart() ([]row, error) {
	var values []float64
	for range 4 * rounds {
		socket := place(".sock")
		began := time.Now()
		ow, err := launch("onewake", "unix", socket, []string{onewake, "-listen", "unix:" + socket, "--", program("tiny")})
		if err != nil {
			return nil, err
		}
		for err = ow.ask(); err != nil && time.Since(began) < 5*time.Second; err = ow.ask() {
			time.Sleep(200 * time.Microsecond)
		}
		took := time.Since(began)
		ow.stop()
		if err != nil {
			return nil, err
		}
		values = append(values, took.Seconds()*1e3)
	}
	return []row{{What: "from exec of the monitor to the first answer", Unit: " ms", Value: spreadOf(values), Target: 30, AtMost: true}}, nil
}

// sleepPart measures how well slots are used by commands that only wait.
func sleepPart() ([]row, error) {
	const procs, seconds, batches = 64, 0.5, 10
	ow, err := startOnewake([]string{"-max-procs", strconv.Itoa(procs)}, program("tiny"), "sleep", "500")
	if err != nil {
		return nil, err
	}
	defer ow.stop()
	s, err := interleave(few(), loaded("ow", ow, load{Clients: 2 * procs, Requests: batches * procs}),
		theLimit("limit", procs, batches*500*time.Millisecond, "sleep", "500"))
	if err != nil {
		return nil, err
	}
	of := func(s sample) float64 { return s.rate / (procs / seconds) }
	remark("command that sleeps 0.5 s, 64 at once: limit.c reaches %s of the arithmetic limit", number(spreadOf(s.of("limit", of)).Median))
	return []row{{What: "command that sleeps 0.5 s, 64 at once: requests/s, of the arithmetic limit", Target: 0.98,
		Ours: median(s.of("ow", rate), "/s"), Reference: number(procs/seconds) + " /s", Value: spreadOf(s.of("ow", of))}}, nil
}
