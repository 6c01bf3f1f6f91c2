//go:build linux

package main

import (
	"fmt"
	"runtime"
	"slices"
)

// part is a part of the run: contenders that take turns, and the rows that
// come of it.
type part struct {
	name       string
	contenders []contender
	rows       []row
}

// row is one line of the table: in each round the ratio of two values, or
// where there is no reference the value itself.
type row struct {
	what            string
	ours, reference value
	target          target
}

// value is a metric of the contender with that name.
type value struct {
	contender string
	metric    metric
}

// target is what a row should reach.
type target struct {
	sign  string // ≤ or ≥; none if empty
	bound float64
}

var none value

// best is the contender with the highest median.
const best = "best"

// parts are all parts.
func parts() []part {
	return []part{limitPart(), peersPart(), uploadPart(),
		{"output", []contender{
			loaded("onewake", newOnewake("--", "/bin/cat", made("1MB")), 1, 0), loaded("limit", newLimit(made("1MB")), 1, 0),
		}, []row{
			{"1 MB of output, of cat through a pipe", value{"onewake", received}, value{"limit", received}, target{"≥", 0.85}},
		}},
		clientsPart(),
		{"memory", []contender{memory()}, []row{
			{"memory of both processes, idle", value{"memory", idle}, none, target{"≤", 16}},
			{"memory of both processes, after load", value{"memory", after}, none, target{"≤", 24}},
		}},
		{"start", []contender{starting()}, []row{
			{"from exec of the monitor to the first answer", value{"start", first}, none, target{"≤", 30}},
			{"the same with 1,000 scripts, more", value{"start", more}, none, target{"≤", 100}},
		}},
	}
}

// limitPart compares with what fork, exec and wait cost without anything else.
func limitPart() part {
	plain := newOnewake("--", made("tiny"))
	logged := newOnewake("-access-log", "--", made("tiny"))
	return part{"limit", []contender{
		// As many loops of the limit as it takes to use every CPU, which is
		// what eight clients make of onewake.
		spawning("limit", runtime.NumCPU()), loaded("8", plain, 8, 0), loaded("log", logged, 8, 0),
		spawning("one loop", 1), loaded("1", plain, 1, 0),
	}, []row{
		{"CPU of monitor + core per request, of the limit's per process, 8 clients", value{"8", cpu}, value{"limit", cpu}, target{"≤", 0.35}},
		{"the same at 1 client", value{"1", cpu}, value{"one loop", cpu}, target{}},
		{"CPU of the monitor per request, of the core's, 8 clients", value{"8", cpuMonitor}, value{"8", cpuCore}, target{}},
		{"the same at 1 client", value{"1", cpuMonitor}, value{"1", cpuCore}, target{}},
		{"requests/s direct, 8 clients, of the limit's processes/s", value{"8", rate}, value{"limit", rate}, target{"≥", 0.6}},
		{"access log on, of off: requests/s", value{"log", rate}, value{"8", rate}, target{}},
		{"p99 of the latency at 8 clients, of its median", value{"8", p99}, value{"8", p50}, target{}},
	}}
}

// peersPart compares with other ways to put a CGI program behind a web server.
func peersPart() part {
	http, fastcgi := newOnewakeCGI("http"), newOnewakeCGI("fastcgi")
	byHTTP := newNginx(http, passHTTP)
	byFastCGI := newNginx(fastcgi, passFastCGI())
	kept := newNginx(fastcgi, passFastCGI()+passKept)
	fcgiwrap := newNginx(newFcgiwrap(), passFastCGI())
	return part{"peers", []contender{
		loaded("http", byHTTP, 8, 0), loaded("http 64", byHTTP, 64, 0),
		loaded("fastcgi", byFastCGI, 8, 0), loaded("fastcgi 64", byFastCGI, 64, 0), loaded("kept", kept, 8, 0),
		loaded("fcgiwrap", fcgiwrap, 8, 0), loaded("fcgiwrap 64", fcgiwrap, 64, 0),
		loaded("lighttpd", newLighttpd(), 8, 0), loaded("apache", newApache(), 8, 0),
	}, []row{
		{"onewake behind nginx, 8 clients: requests/s, of fcgiwrap behind nginx", value{"http", rate}, value{"fcgiwrap", rate}, target{"≥", 1.25}},
		{"onewake behind nginx, 64 clients: requests/s, of fcgiwrap behind nginx", value{"http 64", rate}, value{"fcgiwrap 64", rate}, target{}},
		{"onewake by FastCGI behind nginx, 8 clients: requests/s, of fcgiwrap behind nginx", value{"fastcgi", rate}, value{"fcgiwrap", rate}, target{"≥", 1.25}},
		{"onewake by FastCGI behind nginx, 64 clients: requests/s, of fcgiwrap behind nginx", value{"fastcgi 64", rate}, value{"fcgiwrap 64", rate}, target{"≥", 1.25}},
		{"onewake behind nginx, 8 clients: requests/s, of lighttpd mod_cgi", value{"http", rate}, value{"lighttpd", rate}, target{"≥", 1}},
		{"onewake behind nginx, 8 clients: requests/s, of Apache mod_cgid", value{"http", rate}, value{"apache", rate}, target{"≥", 1}},
		{"CPU of monitor + core, kept connections behind nginx: FastCGI, of HTTP", value{"kept", cpu}, value{"http", cpu}, target{"≤", 1.1}},
	}}
}

// uploadPart compares uploads, which everybody but the command puts on disk.
func uploadPart() part {
	return part{"upload", []contender{
		loaded("http", newNginx(newOnewakeCGI("http"), passHTTP), 1, 10e6),
		loaded("fastcgi", newNginx(newOnewakeCGI("fastcgi"), passFastCGI()), 1, 10e6),
		loaded("fcgiwrap", newNginx(newFcgiwrap(), passFastCGI()), 1, 10e6),
		loaded("lighttpd", newLighttpd(), 1, 10e6),
	}, []row{
		{"10 MB of body, onewake behind nginx, of fcgiwrap behind nginx", value{"http", sent}, value{"fcgiwrap", sent}, target{}},
		{"10 MB of body, onewake behind nginx, of lighttpd mod_cgi", value{"http", sent}, value{"lighttpd", sent}, target{}},
		{"10 MB of body, onewake by FastCGI behind nginx, of fcgiwrap behind nginx", value{"fastcgi", sent}, value{"fcgiwrap", sent}, target{}},
		{"10 MB of body, onewake by FastCGI behind nginx, of lighttpd mod_cgi", value{"fastcgi", sent}, value{"lighttpd", sent}, target{}},
	}}
}

// clientsPart compares numbers of clients with the best of them.
func clientsPart() part {
	s := newOnewake("-max-queue", "4096", "-max-conns", "4096", "--", made("tiny"))
	return part{"clients", []contender{
		loaded("8", s, 8, 0), loaded("64", s, 64, 0), loaded("256", s, 256, 0), loaded("1024", s, 1024, 0),
	}, []row{
		{"64 clients: requests/s, of the best", value{"64", rate}, value{best, rate}, target{"≥", 0.9}},
		{"256 clients: requests/s, of the best", value{"256", rate}, value{best, rate}, target{"≥", 0.9}},
		{"1024 clients: requests/s, of the best", value{"1024", rate}, value{best, rate}, target{"≥", 0.9}},
	}}
}

// series is what each contender gave, in the order of rounds.
type series map[string][]sample

// of gives one number of each round.
func (s series) of(v value) []float64 {
	var out []float64
	for _, x := range s[v.contender] {
		out = append(out, x[v.metric])
	}
	return out
}

// best names the contender whose median is the highest.
func (s series) best(m metric) (name string) {
	highest := 0.0
	for n := range s {
		if median := spreadOf(s.of(value{n, m})).median; median > highest {
			name, highest = n, median
		}
	}
	return name
}

// line is a row of the table with what was measured.
func (s series) line(r row) string {
	if r.reference.contender == best {
		r.reference.contender = s.best(r.reference.metric)
		r.what += " (" + r.reference.contender + ")"
	}
	ours, reference := s.of(r.ours), s.of(r.reference)
	if len(ours) == 0 || r.reference != none && len(reference) == 0 {
		return "| " + r.what + " | | | not measured | | |"
	}
	oursCell, referenceCell, unit, bound, reached := "", "", "", "", ""
	if r.reference == none {
		unit = " " + units[r.ours.metric]
	} else {
		oursCell = number(spreadOf(ours).median) + " " + units[r.ours.metric]
		referenceCell = number(spreadOf(reference).median) + " " + units[r.reference.metric]
		for i := range ours {
			ours[i] /= reference[i]
		}
	}
	v := spreadOf(ours)
	if r.target.sign != "" {
		bound = fmt.Sprint(r.target.sign, " ", r.target.bound, unit)
		reached = "no"
		if v.median == r.target.bound || (v.median < r.target.bound) == (r.target.sign == "≤") {
			reached = "yes"
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s%s (%s–%s) | %s | %s |", r.what, oursCell, referenceCell,
		number(v.median), unit, number(v.min), number(v.max), bound, reached)
}

// spread is what several rounds gave.
type spread struct{ median, min, max float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	return spread{(v[len(v)/2] + v[(len(v)-1)/2]) / 2, v[0], v[len(v)-1]}
}

// number writes a value with three significant digits.
func number(v float64) string {
	digits := 3
	for a := v; a >= 1 && digits > 0; a /= 10 {
		digits--
	}
	return fmt.Sprintf("%.*f", digits, v)
}
