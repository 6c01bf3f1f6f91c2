//go:build linux

package main

import (
	"fmt"
	"log"
	"os/exec"
	"strconv"
	"time"
)

// metric is what a measurement tells.
type metric int

const (
	rate       metric = iota // requests or processes a second
	cpu                      // of one, by onewake's two processes, or by all of the limit's
	cpuMonitor               // of cpu
	cpuCore                  // of cpu
	p50                      // of the latencies
	p99
	sent     // of requests' bodies
	received // of answers' bodies
	idle     // memory after the start
	after    // memory after load
	first    // from exec to the first answer
	more     // of the same with many scripts
	metrics  // how many there are
)

var units = [metrics]string{rate: "/s", cpu: "µs", cpuMonitor: "µs", cpuCore: "µs", p50: "µs", p99: "µs",
	sent: "MB/s", received: "MB/s", idle: "MB", after: "MB", first: "ms", more: "ms"}

// sample is one measurement.
type sample [metrics]float64

// contender is one of those that take turns.
type contender struct {
	name   string
	server *server // to be started before, or nil
	run    func() (sample, error)
}

// interleave lets contenders take turns: forwards in one round, backwards in
// the next, so that a machine that gets slower or busier favours none of them.
// Those whose programs are not installed do not take part.
func interleave(all []contender) (series, error) {
	var cs []contender
	for _, c := range all {
		if c.server != nil {
			if name := c.server.missing(); name != "" {
				log.Printf("%s is left out: %s is not installed", c.name, name)
				continue
			}
			if err := c.server.ready(); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
		cs = append(cs, c)
	}
	out := make(series)
	for r := range rounds {
		for i := range cs {
			c := cs[i]
			if r%2 == 1 {
				c = cs[len(cs)-1-i]
			}
			x, err := c.run()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			out[c.name] = append(out[c.name], x)
		}
	}
	return out, nil
}

// loaded puts load on a server, with bodies of that many bytes. CPU is that of
// onewake, if it is the server or the one behind it.
func loaded(name string, s *server, clients int, body int64) contender {
	return contender{name, s, func() (sample, error) {
		monitor, core := s.times()
		x, n, err := s.load(clients, body, window)
		monitor2, core2 := s.times()
		x[cpuMonitor], x[cpuCore] = micros(monitor2-monitor)/n, micros(core2-core)/n
		x[cpu] = x[cpuMonitor] + x[cpuCore]
		return x, err
	}}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// spawning is limit.c, with some of its loops at once.
func spawning(name string, loops int) contender {
	return contender{name, nil, func() (x sample, err error) {
		out, err := exec.Command(made("limit"), fmt.Sprint(window.Seconds()), strconv.Itoa(loops), made("tiny")).Output()
		if err != nil {
			return x, err
		}
		var n, seconds, used float64
		if _, err := fmt.Sscan(string(out), &n, &seconds, &used); err != nil {
			return x, err
		}
		x[rate] = n / seconds
		x[cpu] = used / n * 1e6
		return x, nil
	}}
}

// memory starts onewake and looks at both processes' memory, then puts load on
// it and looks again.
func memory() contender {
	return contender{"memory", nil, func() (x sample, err error) {
		defer stopAll()
		s := newOnewake("--", made("tiny"))
		if err := s.start(); err != nil {
			return x, err
		}
		if x[idle], err = s.memory(); err != nil {
			return x, err
		}
		for _, clients := range []int{8, 256} {
			if _, _, err := s.load(clients, 0, 2*window); err != nil {
				return x, err
			}
		}
		x[after], err = s.memory()
		return x, err
	}}
}

// starting measures the time from exec to the first answer, and how much more
// it is with many programs below -scripts.
func starting() contender {
	once := func(path string, argv ...string) (float64, error) {
		defer stopAll()
		s := newOnewake(argv...)
		began := time.Now()
		if err := s.launch(); err != nil {
			return 0, err
		}
		err := s.await(func() error { return s.ask(path) })
		return micros(time.Since(began)) / 1e3, err
	}
	return contender{"start", nil, func() (x sample, err error) {
		if x[first], err = once("/", "--", made("tiny")); err != nil {
			return x, err
		}
		many, err := once("/999.cgi", "-scripts", made("scripts"))
		x[more] = many - x[first]
		return x, err
	}}
}
