//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// sample is one measurement.
type sample struct {
	rate          float64 // requests or processes per second
	cpu           float64 // of one, in µs: onewake's two processes, or the limit's all
	monitor, core float64 // of cpu
	own           float64 // the limit's own part of cpu
	tree          float64 // CPU of a request in all of the servers' processes, in µs
	command       float64 // CPU of its command, 0 if nobody knows
	idle          float64 // what part of all CPUs had nothing to do, in %
	result
}

// contender is one of those that take turns.
type contender struct {
	name string
	run  func() (sample, error)
}

// series is what each contender gave, in the order of rounds.
type series map[string][]sample

// interleave lets contenders take turns: forwards in one round, backwards in
// the next, so that a machine that gets slower or busier favours none of them.
func interleave(n int, cs ...contender) (series, error) {
	out := make(series)
	progress("  %d contenders are warm and take turns, %d rounds: %.0f s or more", len(cs), n, (time.Duration(len(cs)*n) * window).Seconds())
	began := time.Now()
	for r := range n {
		if left := time.Since(began) * time.Duration(n-r) / time.Duration(max(r, 1)); r == 1 && left > time.Second {
			progress("  round 1 of %d is done, the others take %.0f s", n, left.Seconds())
		}
		for i := range cs {
			c := cs[i]
			if r%2 == 1 {
				c = cs[len(cs)-1-i]
			}
			all, idle := ticks()
			s, err := c.run()
			all2, idle2 := ticks()
			s.idle = 100 * (idle2 - idle) / (all2 - all)
			if err != nil {
				return out, fmt.Errorf("%s: %w", c.name, err)
			}
			out[c.name] = append(out[c.name], s)
		}
	}
	return out, nil
}

// of gives one number of each round.
func (s series) of(name string, f func(sample) float64) []float64 {
	var out []float64
	for _, x := range s[name] {
		out = append(out, f(x))
	}
	return out
}

func rate(s sample) float64      { return s.rate }
func cpu(s sample) float64       { return s.cpu }
func idle(s sample) float64      { return s.idle }
func megabytes(s sample) float64 { return float64(s.Bytes) / s.Seconds / 1e6 }

// loaded is a contender that puts load on a server.
func loaded(name string, s *server, l load) contender {
	l.Network, l.Address = s.network, s.address
	if l.Duration == 0 && l.Requests == 0 {
		l.Duration = window
	}
	return contender{name, func() (sample, error) {
		before := cpuTimes(s)
		own, commands := s.treeTime()
		r, err := l.run()
		after := cpuTimes(s)
		own2, commands2 := s.treeTime()
		if err != nil {
			return sample{}, err
		}
		micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(r.Requests) }
		x := sample{rate: r.Rate(), result: r, tree: micros(own2 - own), command: micros(commands2 - commands)}
		x.monitor = micros(after[0] - before[0])
		x.cpu = x.monitor
		if len(after) > 1 {
			x.core = micros(after[1] - before[1])
			x.cpu += x.core
		}
		return x, nil
	}}
}

func cpuTimes(s *server) []time.Duration {
	var out []time.Duration
	for _, pid := range s.pids() {
		out = append(out, cpuTime(pid))
	}
	return out
}

// theLimit is the contender limit.c, with some of its loops at once.
func theLimit(name string, loops int, d time.Duration, args ...string) contender {
	argv := append([]string{fmt.Sprint(d.Seconds()), strconv.Itoa(loops), program("tiny")}, args...)
	return contender{name, func() (sample, error) {
		b, err := exec.Command(program("limit"), argv...).Output()
		if err != nil {
			return sample{}, err
		}
		var n, seconds, own, children float64
		if _, err := fmt.Sscan(string(b), &n, &seconds, &own, &children); err != nil {
			return sample{}, err
		}
		return sample{rate: n / seconds, cpu: (own + children) / n * 1e6, own: own / n * 1e6}, nil
	}}
}

// all are as many loops of the limit as it takes to use every CPU, which is
// what eight clients make of onewake.
var all = runtime.NumCPU()

// warm makes a server do what it does once.
func warm(servers ...*server) error {
	for _, s := range servers {
		l := load{Network: s.network, Address: s.address, Clients: 8, Duration: 200 * time.Millisecond}
		if _, err := l.run(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// median writes a number's median with its unit.
func median(v []float64, unit string) string { return number(spreadOf(v).Median) + " " + unit }

// best is the name of the contender with the highest median rate.
func (s series) best(names []string) string {
	return slices.MaxFunc(names, func(a, b string) int {
		d := spreadOf(s.of(a, rate)).Median - spreadOf(s.of(b, rate)).Median
		switch {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return 0
	})
}

// compare makes the row of two contenders' ratios.
func (s series) compare(what, a, b string, f func(sample) float64, unit string) row {
	x, y := s.of(a, f), s.of(b, f)
	return row{What: what, Ours: median(x, unit), Reference: median(y, unit), Value: spreadOf(ratios(x, y))}
}
