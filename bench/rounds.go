//go:build linux

package main

import (
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// sample is one measurement.
type sample struct {
	rate          float64 // requests or processes per second
	cpu           float64 // of one, in µs: onewake's two processes, or the limit's all
	monitor, core float64 // of cpu
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
func interleave(cs ...contender) (series, error) {
	out := make(series)
	progress("  %d contenders, %d rounds", len(cs), rounds)
	for r := range rounds {
		for i := range cs {
			c := cs[i]
			if r%2 == 1 {
				c = cs[len(cs)-1-i]
			}
			s, err := c.run()
			if err != nil {
				return out, fmt.Errorf("%s: %w", c.name, err)
			}
			out[c.name] = append(out[c.name], s)
			time.Sleep(pause)
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
func megabytes(s sample) float64 { return float64(s.Bytes) / s.Seconds / 1e6 }

// loaded is a contender that puts load on a server. CPU is that of onewake, if
// it is the server or the one behind it.
func loaded(name string, s *server, l load) contender {
	l.Network, l.Address, l.Duration = s.network, s.address, window
	return contender{name, func() (sample, error) {
		monitor, core := s.times()
		r, err := l.run()
		monitor2, core2 := s.times()
		micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(r.Requests) }
		x := sample{rate: float64(r.Requests) / r.Seconds, result: r, monitor: micros(monitor2 - monitor), core: micros(core2 - core)}
		x.cpu = x.monitor + x.core
		return x, err
	}}
}

// theLimit is the contender limit.c, with some of its loops at once.
func theLimit(name string, loops int) contender {
	return contender{name, func() (sample, error) {
		b, err := exec.Command(program("limit"), fmt.Sprint(window.Seconds()), strconv.Itoa(loops), program("tiny")).Output()
		if err != nil {
			return sample{}, err
		}
		var n, seconds, own, children float64
		if _, err := fmt.Sscan(string(b), &n, &seconds, &own, &children); err != nil {
			return sample{}, err
		}
		return sample{rate: n / seconds, cpu: (own + children) / n * 1e6}, nil
	}}
}

// warm makes a server do what it does once.
func warm(s *server) error {
	_, err := load{Network: s.network, Address: s.address, Clients: 8, Duration: 200 * time.Millisecond}.run()
	return err
}

// spread is what several rounds gave.
type spread struct{ Median, Min, Max float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	v := slices.Sorted(slices.Values(values))
	return spread{(v[len(v)/2] + v[(len(v)-1)/2]) / 2, v[0], v[len(v)-1]}
}

// compare makes the row of two contenders' ratios, one of each round.
func (s series) compare(what, a, b string, f func(sample) float64, unit string) row {
	x, y := s.of(a, f), s.of(b, f)
	var ratios []float64
	for i := range min(len(x), len(y)) {
		ratios = append(ratios, x[i]/y[i])
	}
	return row{What: what, Ours: median(x, unit), Reference: median(y, unit), Value: spreadOf(ratios)}
}

// median writes a number's median with its unit.
func median(v []float64, unit string) string { return number(spreadOf(v).Median) + " " + unit }

// number writes a value with three significant digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
