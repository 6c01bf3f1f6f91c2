//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// scale is one table of growth: what grows, and how a point of it is measured.
type scale struct {
	name   string
	title  string
	values []int
	start  func(value int) (*server, error)
	load   func(value int) load
	shared bool // one server does for all values
}

var scales = []scale{
	{"clients", "clients", []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		func(int) (*server, error) {
			return startOnewake([]string{"-max-queue", "4096"}, program("tiny"))
		},
		func(n int) load { return load{Clients: n} }, true},
	{"body", "bytes of body, into wc -c", []int{0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8},
		func(int) (*server, error) {
			wc, err := exec.LookPath("wc")
			if err != nil {
				return nil, err
			}
			return startOnewake([]string{"-max-body", "200MiB"}, wc, "-c")
		},
		func(n int) load { return load{Clients: 1, Method: "POST", Body: int64(n)} }, true},
	{"headers", "header fields", []int{0, 1, 10, 50, 100, 200, 400},
		func(int) (*server, error) { return startOnewake([]string{"-cgi"}, program("tiny.cgi")) },
		func(n int) load {
			l := load{Clients: 8}
			for i := range n {
				l.Fields = append(l.Fields, fmt.Sprintf("X-Field-%d: value-%d", i, i))
			}
			return l
		}, true},
	{"value", "bytes in one header field", []int{0, 100, 1000, 10_000, 50_000, 100_000},
		func(int) (*server, error) { return startOnewake([]string{"-cgi"}, program("tiny.cgi")) },
		func(n int) load { return load{Clients: 8, Fields: []string{"X-Value: " + strings.Repeat("x", n)}} }, true},
	{"environment", "bytes of environment by -env", []int{0, 100, 1000, 10_000, 50_000, 100_000},
		func(n int) (*server, error) {
			return startOnewake([]string{"-env", "VALUE=" + strings.Repeat("x", n)}, program("tiny"))
		},
		func(int) load { return load{Clients: 8} }, false},
	{"procs", "-max-procs, 128 clients", []int{1, 2, 4, 8, 16, 32, 64},
		func(n int) (*server, error) {
			return startOnewake([]string{"-max-procs", strconv.Itoa(n)}, program("tiny"))
		},
		func(int) load { return load{Clients: 128} }, false},
}

// growth prints how cost grows with what may grow: the medians of rounds in
// which all values take turns.
func growth(wanted *regexp.Regexp, most int) error {
	for _, s := range scales {
		if !wanted.MatchString(s.name) {
			continue
		}
		progress("growth of %s", s.name)
		if err := s.measure(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if wanted.MatchString("requests") {
		progress("growth of requests, up to %d", most)
		return requestsSoFar(most)
	}
	return nil
}

func (s scale) measure() error {
	var cs []contender
	var ow *server
	for _, v := range s.values {
		if ow == nil || !s.shared {
			var err error
			if ow, err = s.start(v); err != nil {
				return err
			}
			defer ow.stop()
			if err := warm(ow); err != nil {
				return err
			}
		}
		cs = append(cs, loaded(strconv.Itoa(v), ow, s.load(v)))
	}
	got, err := interleave(few(), cs...)
	if err != nil {
		return err
	}
	cells := [][]string{{s.title, "requests/s", "CPU of a request", "monitor", "core", "median", "p99"}}
	for _, c := range cs {
		at := func(f func(sample) float64) string { return number(spreadOf(got.of(c.name, f)).Median) }
		cells = append(cells, []string{c.name, at(rate), at(cpu) + " µs",
			at(func(x sample) float64 { return x.monitor }) + " µs", at(func(x sample) float64 { return x.core }) + " µs",
			at(func(x sample) float64 { return x.Median / 1e3 }) + " ms", at(func(x sample) float64 { return x.P99 / 1e3 }) + " ms"})
	}
	fmt.Println(table(cells))
	return nil
}

// requestsSoFar looks at one server as it gets older. The CPU of a request is
// that of the requests since the line before.
func requestsSoFar(most int) error {
	ow, err := startOnewake(nil, program("tiny"))
	if err != nil {
		return err
	}
	defer ow.stop()
	cells := [][]string{{"requests so far", "requests/s", "CPU of a request", "memory", "descriptors"}}
	done := 1 // by startOnewake
	for next := 1; next <= most; next *= 10 {
		var x sample
		if next > done {
			l := load{Clients: 8, Requests: next - done, Duration: time.Duration(most) * 10 * time.Millisecond}
			if x, err = loaded("", ow, l).run(); err != nil {
				return err
			}
			done = next
		}
		time.Sleep(200 * time.Millisecond)
		bytes, proportional, err := ow.memory()
		if err != nil {
			return err
		}
		size := number(bytes/1e6) + " MB"
		if !proportional {
			size += " resident"
		}
		line := []string{strconv.Itoa(done), "", "", size, strconv.Itoa(ow.files())}
		if x.Requests > 0 {
			line[1], line[2] = number(x.rate), number(x.cpu)+" µs"
		}
		cells = append(cells, line)
	}
	fmt.Println(table(cells))
	return nil
}
