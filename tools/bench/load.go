//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// patience is how long a server may take to start, and an answer may be late.
const patience = 30 * time.Second

// load is the load generator. Each client has a connection and sends its next
// request, with a body of that many zeros, when the last is answered. Requests
// under way at the end are waited for. It gives a sample of rate, latencies
// and bytes, and how many requests there were.
//
// It has one thread and no collection, so that it takes as little of the
// machine as may be.
func (s *server) load(clients int, body int64, d time.Duration) (x sample, requests float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	all := make([]*client, clients)
	for i := range all {
		if all[i], err = s.dial(); err != nil {
			return x, 0, err
		}
	}
	began := time.Now()
	ended := make(chan error)
	for _, c := range all {
		go func() { ended <- c.run(s, body, began.Add(d)) }()
	}
	for range all {
		if e := <-ended; e != nil {
			err = e
		}
	}
	if err != nil {
		return x, 0, err
	}
	seconds := time.Since(began).Seconds()
	var latencies []time.Duration
	for _, c := range all {
		latencies = append(latencies, c.latencies...)
		x[received] += float64(c.received) / seconds / 1e6
	}
	slices.Sort(latencies)
	n := len(latencies)
	x[p50], x[p99] = micros(latencies[n/2]), micros(latencies[n*99/100])
	x[rate] = float64(n) / seconds
	x[sent] = x[rate] * float64(body) / 1e6
	return x, float64(n), nil
}

// client is one connection, made anew when the server has closed it.
type client struct {
	net.Conn
	r         *bufio.Reader
	latencies []time.Duration
	received  int64
}

func (s *server) dial() (*client, error) {
	c, err := net.Dial(s.network, s.address)
	if err != nil {
		return nil, err
	}
	return &client{Conn: c, r: bufio.NewReaderSize(c, 16<<10)}, nil
}

// run sends requests, one at least, until a time. One that is not answered with
// 200 is an error.
func (c *client) run(s *server, body int64, end time.Time) error {
	defer func() { c.Close() }()
	head := []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	zeros := make([]byte, min(body, 256<<10))
	if body > 0 {
		head = fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", body)
	}
	for {
		began := time.Now()
		c.SetDeadline(end.Add(patience))
		_, err := c.Write(head)
		for left := body; left > 0 && err == nil; left -= int64(len(zeros)) {
			_, err = c.Write(zeros[:min(left, int64(len(zeros)))])
		}
		if err != nil {
			return err
		}
		closed, err := c.answer()
		if err != nil {
			return err
		}
		now := time.Now()
		c.latencies = append(c.latencies, now.Sub(began))
		if now.After(end) {
			return nil
		}
		if closed {
			c.Close()
			again, err := s.dial()
			if err != nil {
				return err
			}
			c.Conn, c.r = again.Conn, again.r
		}
	}
}

// answer reads one answer, and tells whether the connection ends with it.
func (c *client) answer() (closed bool, err error) {
	a, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return false, err
	}
	if a.StatusCode != http.StatusOK {
		return false, fmt.Errorf("answer %s", a.Status)
	}
	n, err := io.Copy(io.Discard, a.Body)
	c.received += n
	return a.Close, err
}
