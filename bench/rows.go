//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// part is a part of the run: contenders that take turns, and the rows that
// come of it. What it has started is stopped when it is over.
type part struct {
	name string
	run  func() ([]row, error)
}

var parts []part

func init() {
	for _, p := range []part{
		{"limit", limitPart}, {"against", againstPart}, {"peers", peersPart}, {"upload", uploadPart}, {"output", outputPart},
		{"clients", clientsPart}, {"memory", memoryPart}, {"start", startPart},
	} {
		parts = append(parts, part{p.name, func() ([]row, error) {
			defer stopAll()
			return p.run()
		}})
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
	ow, err := startOnewake("--", program("tiny"))
	if err != nil {
		return nil, err
	}
	logged, err := startOnewake("-access-log", "--", program("tiny"))
	if err != nil {
		return nil, err
	}
	// As many loops of the limit as it takes to use every CPU, which is what
	// eight clients make of onewake.
	s, err := interleave(theLimit("limit", runtime.NumCPU()), loaded("8", ow, load{Clients: 8}), loaded("log", logged, load{Clients: 8}),
		theLimit("one loop", 1), loaded("1", ow, load{Clients: 1}))
	if err != nil {
		return nil, err
	}
	for _, n := range []string{"8", "1"} {
		remark("CPU of a request, %s at a time: monitor %s, core %s", n,
			median(s.of(n, func(s sample) float64 { return s.monitor }), "µs"), median(s.of(n, func(s sample) float64 { return s.core }), "µs"))
	}
	return []row{
		s.compare("CPU of monitor + core per request, of the limit's per process, 8 clients", "8", "limit", cpu, "µs").most(0.35),
		s.compare("the same at 1 client", "1", "one loop", cpu, "µs"),
		s.compare("requests/s direct, 8 clients, of the limit's processes/s", "8", "limit", rate, "/s").least(0.6),
		s.compare("access log on, of off: requests/s", "log", "8", rate, "/s"),
		{What: "p99 of the latency at 8 clients, of its median",
			Ours:      median(s.of("8", func(s sample) float64 { return s.P99 }), "µs"),
			Reference: median(s.of("8", func(s sample) float64 { return s.Median }), "µs"),
			Value:     spreadOf(s.of("8", func(s sample) float64 { return s.P99 / s.Median }))},
	}, nil
}

// againstPart compares two builds.
func againstPart() ([]row, error) {
	if against == "" {
		return nil, nil
	}
	var rows []row
	for _, kind := range []struct {
		name string
		argv []string
	}{{"raw", []string{"--", program("tiny")}}, {"-cgi", []string{"-cgi", "--", program("tiny.cgi")}}} {
		a, err := startOnewake(kind.argv...)
		if err != nil {
			return rows, err
		}
		b, err := startBuild(against, kind.argv...)
		if err != nil {
			return rows, err
		}
		s, err := interleave(loaded("a8", a, load{Clients: 8}), loaded("b8", b, load{Clients: 8}),
			loaded("a1", a, load{Clients: 1}), loaded("b1", b, load{Clients: 1}))
		if err != nil {
			return rows, err
		}
		for _, n := range []string{"8", "1"} {
			what := fmt.Sprintf("%s, %s at a time, of %s: ", kind.name, n, filepath.Base(against))
			rows = append(rows,
				s.compare(what+"CPU of the monitor", "a"+n, "b"+n, func(s sample) float64 { return s.monitor }, "µs"),
				s.compare(what+"CPU of the core", "a"+n, "b"+n, func(s sample) float64 { return s.core }, "µs"),
				s.compare(what+"CPU of both", "a"+n, "b"+n, cpu, "µs"),
				s.compare(what+"requests/s", "a"+n, "b"+n, rate, "/s"))
		}
	}
	return rows, nil
}

// Names of peers, as the rows have them.
const (
	byHTTP   = "onewake behind nginx"
	byFCGI   = "onewake by FastCGI behind nginx"
	fcgiwrap = "fcgiwrap behind nginx"
	lighttpd = "lighttpd mod_cgi"
	apache   = "Apache mod_cgid"
)

// startPeers starts all ways to put a CGI program behind a web server that this
// machine has. fastcgi is nginx with kept connections before the same onewake
// as that of byFCGI.
func startPeers() (peers map[string]*server, kept *server, err error) {
	peers = make(map[string]*server)
	script := program("tiny.cgi")
	add := func(name, binary string, start func() (*server, error)) {
		if err != nil {
			return
		}
		if find(binary) == "" {
			remark("%s is missing, and its rows are left out", binary)
			return
		}
		if peers[name], err = start(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	add(byHTTP, "nginx", func() (*server, error) {
		ow, err := startOnewake("-max-body", "200MiB", "-cgi", "--", script)
		if err != nil {
			return nil, err
		}
		return startNginx(ow, passHTTP)
	})
	add(byFCGI, "nginx", func() (*server, error) {
		ow, err := startOnewake("-max-body", "200MiB", "-protocol", "fastcgi", "-cgi", "--", script)
		if err != nil {
			return nil, err
		}
		if kept, err = startNginx(ow, passFastCGI(script)+passKept); err != nil {
			return nil, err
		}
		return startNginx(ow, passFastCGI(script))
	})
	if peers[byHTTP] != nil {
		add(fcgiwrap, "fcgiwrap", func() (*server, error) {
			fw, err := startFcgiwrap()
			if err != nil {
				return nil, err
			}
			return startNginx(fw, passFastCGI(script))
		})
	}
	add(lighttpd, "lighttpd", func() (*server, error) { return startLighttpd(script) })
	add(apache, "apache2", func() (*server, error) { return startApache(script) })
	return peers, kept, err
}

// peersPart compares with other ways to put a CGI program behind a web server.
func peersPart() ([]row, error) {
	peers, kept, err := startPeers()
	if err != nil {
		return nil, err
	}
	var cs []contender
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		s := peers[name]
		cs = append(cs, loaded(name, s, load{Clients: 8}))
		if name == byHTTP || name == byFCGI || name == fcgiwrap {
			cs = append(cs, loaded(name+" 64", s, load{Clients: 64}))
		}
	}
	if kept != nil {
		cs = append(cs, loaded("kept", kept, load{Clients: 8}))
	}
	s, err := interleave(cs...)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, p := range []struct {
		ours, peer, clients string
		target              float64
	}{
		{byHTTP, fcgiwrap, "", 1.25}, {byHTTP, fcgiwrap, " 64", 0}, {byFCGI, fcgiwrap, "", 1.25}, {byFCGI, fcgiwrap, " 64", 1.25},
		{byHTTP, lighttpd, "", 1}, {byHTTP, apache, "", 1},
	} {
		if s[p.ours+p.clients] != nil && s[p.peer+p.clients] != nil {
			n := p.clients
			if n == "" {
				n = " 8"
			}
			rows = append(rows, s.compare(p.ours+","+n+" clients: requests/s, of "+p.peer, p.ours+p.clients, p.peer+p.clients, rate, "/s").least(p.target))
		}
	}
	if kept != nil {
		rows = append(rows, s.compare("CPU of monitor + core, kept connections behind nginx: FastCGI, of HTTP", "kept", byHTTP, cpu, "µs").most(1.1))
	}
	return rows, nil
}

// uploadPart compares uploads, which everybody but the command puts on disk.
func uploadPart() ([]row, error) {
	peers, _, err := startPeers()
	if err != nil {
		return nil, err
	}
	var cs []contender
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		s := peers[name]
		cs = append(cs, loaded(name, s, load{Clients: 1, Body: 10e6}))
	}
	s, err := interleave(cs...)
	if err != nil {
		return nil, err
	}
	var rows []row
	sent := func(s sample) float64 { return s.rate * 10 }
	for _, ours := range []string{byHTTP, byFCGI} {
		for _, peer := range []string{fcgiwrap, lighttpd} {
			if s[ours] != nil && s[peer] != nil {
				rows = append(rows, s.compare("10 MB of body, "+ours+", of "+peer, ours, peer, sent, "MB/s"))
			}
		}
	}
	return rows, nil
}

// outputPart compares large output with a C program that copies it.
func outputPart() ([]row, error) {
	file, socket := place(".out"), place(".sock")
	if err := os.WriteFile(file, make([]byte, 1e6), 0o600); err != nil {
		return nil, err
	}
	ow, err := startOnewake("--", "/bin/cat", file)
	if err != nil {
		return nil, err
	}
	pump, err := start("unix", socket, program("pump"), socket, file)
	if err != nil {
		return nil, err
	}
	s, err := interleave(loaded("ow", ow, load{Clients: 1}), loaded("pump", pump, load{Clients: 1}))
	return []row{s.compare("1 MB of output, of cat through a pipe", "ow", "pump", megabytes, "MB/s").least(0.85)}, err
}

// clientsPart compares numbers of clients with the best of them.
func clientsPart() ([]row, error) {
	ow, err := startOnewake("-max-queue", "4096", "-max-conns", "4096", "--", program("tiny"))
	if err != nil {
		return nil, err
	}
	var cs []contender
	all := []string{"8", "64", "256", "1024"}
	for _, name := range all {
		n, _ := strconv.Atoi(name)
		cs = append(cs, loaded(name, ow, load{Clients: n}))
	}
	s, err := interleave(cs...)
	if err != nil {
		return nil, err
	}
	best := all[0]
	for _, n := range all {
		if spreadOf(s.of(n, rate)).Median > spreadOf(s.of(best, rate)).Median {
			best = n
		}
	}
	var rows []row
	for _, n := range all[1:] {
		rows = append(rows, s.compare(n+" clients: requests/s, of the best ("+best+")", n, best, rate, "/s").least(0.9))
	}
	return rows, nil
}

// memoryPart measures both processes' memory.
func memoryPart() ([]row, error) {
	var idle, after []float64
	for range min(rounds, 3) {
		ow, err := startOnewake("--", program("tiny"))
		if err != nil {
			return nil, err
		}
		a, err := ow.memory()
		for _, n := range []int{8, 256} {
			if err == nil {
				_, err = load{Network: ow.network, Address: ow.address, Clients: n, Duration: 2 * window}.run()
			}
		}
		b, err2 := ow.memory()
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		idle, after = append(idle, a), append(after, b)
	}
	return []row{
		row{What: "memory of both processes, idle", Unit: " MB", Value: spreadOf(idle)}.most(16),
		row{What: "memory of both processes, after load", Unit: " MB", Value: spreadOf(after)}.most(24),
	}, nil
}

// startPart measures the time from exec to the first answer, also with many
// programs below -scripts.
func startPart() ([]row, error) {
	dir := place(".scripts")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	for i := range 1000 {
		if err := os.Link(program("tiny.cgi"), filepath.Join(dir, strconv.Itoa(i)+".cgi")); err != nil {
			return nil, err
		}
	}
	once := func(path string, argv ...string) (float64, error) {
		began := time.Now()
		ow, err := launchBuild(onewake, argv...)
		if err != nil {
			return 0, err
		}
		for err = ow.ask(path); err != nil && time.Since(began) < 5*time.Second; err = ow.ask(path) {
			time.Sleep(200 * time.Microsecond)
		}
		took := time.Since(began).Seconds() * 1e3
		stopAll()
		return took, err
	}
	var plain, more []float64
	for range rounds {
		a, err := once("/", "--", program("tiny"))
		if err != nil {
			return nil, err
		}
		b, err := once("/999.cgi", "-scripts", dir)
		if err != nil {
			return nil, err
		}
		plain, more = append(plain, a), append(more, b-a)
	}
	return []row{
		row{What: "from exec of the monitor to the first answer", Unit: " ms", Value: spreadOf(plain)}.most(30),
		row{What: "the same with 1,000 scripts, more", Unit: " ms", Value: spreadOf(more)}.most(100),
	}, nil
}
