//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// load is what one run of the load generator does. It is a process of its own
// with one thread, so that its CPU time is nobody else's. Each client has a
// connection and sends its next request when the last is answered.
type load struct {
	Network  string // unix or tcp
	Address  string
	Body     int64 // bytes of zeros to send
	Clients  int
	Duration time.Duration // requests under way at its end are waited for
}

// result is what a run gave.
type result struct {
	Requests int
	Bytes    int64 // of the answers' bodies
	Seconds  float64
	Median   float64 // of the latencies, in µs
	P99      float64
}

// patience is how long a run may take longer than asked for.
const patience = time.Minute

// run starts the load generator and waits for what it found.
func (l load) run() (r result, err error) {
	b, err := json.Marshal(l)
	if err != nil {
		return r, err
	}
	cmd := exec.Command(self, "load", string(b))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return r, err
	}
	timer := time.AfterFunc(l.Duration+patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err = json.NewDecoder(out).Decode(&r)
	if e := cmd.Wait(); e != nil {
		err = fmt.Errorf("load generator: %w", e)
	}
	return r, err
}

// generate is the process "load".
func generate(text string) error {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	raiseFiles()
	var l load
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	clients := make([]*client, l.Clients)
	for i := range clients {
		c, err := net.Dial(l.Network, l.Address)
		if err != nil {
			return err
		}
		clients[i] = &client{Conn: c, r: bufio.NewReaderSize(c, 16<<10)}
	}
	began := time.Now()
	ended := make(chan error)
	for _, c := range clients {
		go func() { ended <- c.run(&l, began.Add(l.Duration)) }()
	}
	for range clients {
		if err := <-ended; err != nil {
			return err
		}
	}
	r := result{Seconds: time.Since(began).Seconds()}
	var all []time.Duration
	for _, c := range clients {
		all = append(all, c.latency...)
		r.Bytes += c.bytes
	}
	if r.Requests = len(all); r.Requests == 0 {
		return errors.New("no request was answered")
	}
	slices.Sort(all)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	r.Median, r.P99 = micros(all[len(all)/2]), micros(all[len(all)*99/100])
	return json.NewEncoder(os.Stdout).Encode(r)
}

// client is one connection, made anew when the server has closed it.
type client struct {
	net.Conn
	r       *bufio.Reader
	latency []time.Duration
	bytes   int64
}

// run sends requests until a time. One that is not answered with 200 is an error.
func (c *client) run(l *load, end time.Time) error {
	head := []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	zeros := make([]byte, min(l.Body, 256<<10))
	if l.Body > 0 {
		head = fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", l.Body)
	}
	for {
		sent := time.Now()
		if !sent.Before(end) {
			return c.Close()
		}
		_, err := c.Write(head)
		for left := l.Body; left > 0 && err == nil; left -= int64(len(zeros)) {
			_, err = c.Write(zeros[:min(left, int64(len(zeros)))])
		}
		closed := false
		if err == nil {
			closed, err = c.answer()
		}
		if err != nil {
			return err
		}
		c.latency = append(c.latency, time.Since(sent))
		if closed {
			c.Close()
			if c.Conn, err = net.Dial(l.Network, l.Address); err != nil {
				return err
			}
			c.r.Reset(c.Conn)
		}
	}
}

// answer reads one answer, and tells whether the connection ends with it.
func (c *client) answer() (closed bool, err error) {
	status, err := c.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(status, "HTTP/1.") || len(status) < 12 || status[9:12] != "200" {
		return false, fmt.Errorf("answer %.60q, %v", status, err)
	}
	closed = status[7] == '0'
	length, chunked := int64(-1), false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": ")
		switch strings.ToLower(name) {
		case "content-length":
			length, err = strconv.ParseInt(value, 10, 64)
		case "transfer-encoding":
			chunked = true
		case "connection":
			closed = strings.EqualFold(value, "close")
		}
		if err != nil {
			return false, err
		}
	}
	n := int64(0)
	switch {
	case chunked:
		if n, err = io.Copy(io.Discard, httputil.NewChunkedReader(c.r)); err == nil {
			_, err = c.r.Discard(2) // there is no trailer
		}
	case length >= 0:
		n, err = io.CopyN(io.Discard, c.r, length)
	default:
		closed = true
		n, err = io.Copy(io.Discard, c.r)
	}
	c.bytes += n
	return closed, err
}
