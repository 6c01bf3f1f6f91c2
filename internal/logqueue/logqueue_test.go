package logqueue

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is the time after which a test fails.
const patience = time.Minute

// gate is a writer that blocks until the test releases it.
type gate struct {
	began   chan string
	release chan error
}

func newGate() *gate { return &gate{make(chan string), make(chan error)} }

func (g *gate) Write(p []byte) (int, error) {
	g.began <- string(p)
	return len(p), <-g.release
}

func (g *gate) next(t *testing.T, err error) string {
	t.Helper()
	select {
	case s := <-g.began:
		g.release <- err
		return s
	case <-time.After(patience):
		t.Fatal("no record is written")
		return ""
	}
}

func TestRecords(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		q, log := New(int(w.Fd()), asJSON)
		log.Debug("below Info")
		log.Warn("hello", "text", "a\n\"b", "time", 47619*time.Nanosecond, "error", errors.New("oops"), "n", 3)
		q.Close(patience)
		w.Close()
		b, _ := io.ReadAll(r)
		line := string(b)
		if !asJSON {
			_, rest, _ := strings.Cut(line, " ")
			if rest != `level=WARN msg=hello text="a\n\"b" time=0.000048 error=oops n=3`+"\n" || !strings.HasPrefix(line, "time=") || !strings.Contains(line, "Z level") {
				t.Errorf("%q", line)
			}
			continue
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil || m["msg"] != "hello" || m["text"] != "a\n\"b" || m["error"] != "oops" || m["n"] != 3.0 || m["time"] != 0.000048 {
			t.Errorf("%v: %q", err, line)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("x", 512), strings.Repeat("x", 512)},
		{strings.Repeat("x", 513), strings.Repeat("x", 512) + " [1 more bytes]"},
		{strings.Repeat("\n\"", 128), strings.Repeat("\n\"", 128)},
		{strings.Repeat("\x00", 600), strings.Repeat("\x00", 85) + " [515 more bytes]"},
		{strings.Repeat("é", 300), strings.Repeat("é", 256) + " [88 more bytes]"},
		{strings.Repeat("x", 511) + "é", strings.Repeat("x", 511) + " [2 more bytes]"},
	} {
		if got := cut(tt.in); got != tt.want {
			t.Errorf("%.20q (%d): %q", tt.in, len(tt.in), got)
		}
	}
}

// The length of a value is limited in both formats.
func TestCutIsBounded(t *testing.T) {
	for _, r := range []string{"x", "\"", "\\", "\n", "\x00", "\x7f", "\xff", "é", "馬", "😀", "\u202e", "\u2028", "\ufffd", "\ufeff", "\ue000", "\U000e0001", "\U0010ffff"} {
		for _, asJSON := range []bool{false, true} {
			var b strings.Builder
			slog.New(handler(&b, asJSON)).Info("", "value", strings.Repeat(r, 600))
			_, value, _ := strings.Cut(b.String(), "value")
			value, mark, _ := strings.Cut(value, " [")
			if n := len(value) - len(`":"`); n > maxValue || n < maxValue/8 || len(mark) > 20 {
				t.Errorf("%q, JSON %v: %d bytes, %q", r, asJSON, n, mark)
			}
		}
	}
}

// If the reader blocks, records are dropped and Write does not block.
func TestBlockedReader(t *testing.T) {
	g := newGate()
	q, log := start(g, false)
	log.Info("first")
	first := <-g.began // its write blocks
	for range maxRecords + 10 {
		log.Info("more")
	}
	if n := q.Dropped(); n != 10 {
		t.Errorf("%d dropped", n)
	}
	g.release <- nil
	if !strings.Contains(first, "msg=first") {
		t.Errorf("%q", first)
	}
	if s := g.next(t, nil); !strings.Contains(s, `msg="log records dropped" count=10`) {
		t.Errorf("%q", s)
	}
	for range maxRecords {
		if s := g.next(t, nil); !strings.Contains(s, "msg=more") {
			t.Errorf("%q", s)
		}
	}
	q.Close(patience)
}

func TestBytesAreBounded(t *testing.T) {
	g := newGate()
	q, log := start(g, false)
	log.Info("first")
	<-g.began
	text := strings.Repeat("x", 500)
	for range maxRecords {
		log.Info("more", "text", text)
	}
	if q.bytes.Load() > maxBytes || q.Dropped() == 0 {
		t.Errorf("%d bytes queued, %d dropped", q.bytes.Load(), q.Dropped())
	}
	g.release <- io.ErrClosedPipe
	go func() {
		for range g.began {
			g.release <- nil
		}
	}()
	q.Close(patience)
	if q.bytes.Load() != 0 {
		t.Errorf("%d bytes queued", q.bytes.Load())
	}
}

// Close waits no longer than its argument says.
func TestCloseIsBounded(t *testing.T) {
	g := newGate()
	q, log := start(g, false)
	log.Info("first")
	<-g.began
	q.Close(time.Millisecond)
	g.release <- nil
	q.Close(patience)
}

// A broken pipe does not exit the process. The records are counted.
func TestBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	q, log := New(int(w.Fd()), false)
	log.Info("lost")
	q.Close(patience)
	if q.Dropped() != 1 {
		t.Errorf("%d dropped", q.Dropped())
	}
}

// On a non-blocking descriptor no record is lost.
func TestNonBlocking(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	q, log := New(fd, false)
	const n = 2000
	text := strings.Repeat("x", 400)
	for range n {
		log.Info("record", "text", text)
	}
	got := make(chan int)
	go func() {
		b, _ := io.ReadAll(r)
		got <- strings.Count(string(b), "msg=record")
	}()
	q.Close(patience)
	w.Close()
	if g := <-got; g != n {
		t.Errorf("%d records of %d, %d dropped", g, n, q.Dropped())
	}
}
