// Package logqueue lets a daemon write its log without blocking: a [Queue] is the
// writer of a [log/slog] handler. Each record is one write(2). If the reader of the
// log is too slow, records are dropped and counted, and the count is logged as soon
// as writing works again.
package logqueue

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// maxRecords and maxBytes limit the queue.
	maxRecords = 4096
	maxBytes   = 1 << 20
	// maxValue limits each value, in bytes as written, because most values come
	// from a client or a command.
	maxValue = 512
)

// Queue is an [io.Writer] that does not block. Each Write is one record.
type Queue struct {
	w       io.Writer
	records chan []byte
	bytes   atomic.Int64 // in records
	dropped atomic.Uint64
	logged  uint64 // how many of dropped were logged
	own     *slog.Logger
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// New returns a queue that writes to an open descriptor, which it does not close,
// and a logger that writes to the queue, as JSON or text, from level Info.
func New(fd int, json bool) (*Queue, *slog.Logger) { return start(descriptor(fd), json) }

func start(w io.Writer, json bool) (*Queue, *slog.Logger) {
	q := &Queue{w: w, own: slog.New(handler(w, json)), records: make(chan []byte, maxRecords), quit: make(chan struct{}), done: make(chan struct{})}
	go q.write()
	return q, slog.New(handler(q, json))
}

// handler returns a handler of log/slog that writes times in UTC and durations in
// seconds, and cuts long values.
func handler(w io.Writer, json bool) slog.Handler {
	o := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch a.Value.Kind() {
		case slog.KindTime:
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		case slog.KindDuration:
			a.Value = slog.AnyValue(seconds(a.Value.Duration().Seconds()))
		case slog.KindString:
			a.Value = slog.StringValue(cut(a.Value.String()))
		case slog.KindAny:
			if err, ok := a.Value.Any().(error); ok {
				a.Value = slog.StringValue(cut(err.Error()))
			}
		}
		return a
	}}
	if json {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// seconds is written with six decimals and without an exponent.
type seconds float64

func (s seconds) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(s), 'f', 6, 64), nil
}

func (s seconds) MarshalJSON() ([]byte, error) { return s.MarshalText() }

// cut shortens a value to maxValue bytes and a note. Characters that are not
// printable count as they are escaped in the longer of the two formats: \u202e as
// six bytes, \U0010ffff as ten.
func cut(s string) string {
	size := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case strings.ContainsRune("\"\\\n\r\t", r):
			size += 2
		case strconv.IsPrint(r) && r != utf8.RuneError:
			size += n
		case r > 0xffff:
			size += 10
		default:
			size += 6
		}
		if size > maxValue {
			return s[:i] + " [" + strconv.Itoa(len(s)-i) + " more bytes]"
		}
		i += n
	}
	return s
}

// Write queues one record. If the queue is full, the record is dropped and counted.
func (q *Queue) Write(p []byte) (int, error) {
	n := int64(len(p))
	if q.bytes.Add(n) <= maxBytes {
		select {
		case q.records <- bytes.Clone(p):
			return len(p), nil
		default:
		}
	}
	q.bytes.Add(-n)
	q.dropped.Add(1)
	return len(p), nil
}

// Dropped returns the number of records dropped since the start.
func (q *Queue) Dropped() uint64 { return q.dropped.Load() }

// Close writes the queued records and stops. It waits at most d.
func (q *Queue) Close(d time.Duration) {
	q.once.Do(func() { close(q.quit) })
	select {
	case <-q.done:
	case <-time.After(d):
	}
}

func (q *Queue) write() {
	defer close(q.done)
	for {
		select {
		case p := <-q.records:
			q.put(p)
		case <-q.quit:
			for len(q.records) > 0 {
				q.put(<-q.records)
			}
			return
		}
	}
}

func (q *Queue) put(p []byte) {
	_, err := q.w.Write(p)
	q.bytes.Add(-int64(len(p)))
	if err != nil {
		q.dropped.Add(1)
		return
	}
	if n := q.dropped.Load(); n > q.logged {
		q.own.Warn("log records dropped", "count", n-q.logged)
		q.logged = n
	}
}

// descriptor writes with the system call, because os.File exits the program on
// EPIPE for descriptor 1 or 2 (os/signal, "SIGPIPE").
type descriptor int

func (fd descriptor) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n, err := syscall.Write(int(fd), rest)
		switch {
		case err == nil:
			rest = rest[n:]
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			// Another process made the descriptor non-blocking. Only this
			// goroutine waits.
			time.Sleep(10 * time.Millisecond)
		default:
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}
