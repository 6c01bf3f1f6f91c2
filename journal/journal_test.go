package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// TestOneWrite: a record is one write(2), so that two processes that share a
// pipe never mix their lines. A datagram socket keeps writes apart.
func TestOneWrite(t *testing.T) {
	t.Parallel()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	j := Open(p[1], Text)
	log := slog.New(j)
	b := make([]byte, 2*MaxRecord)
	for i := range 50 {
		log.Info("m", "i", i, "s", strings.Repeat("x", i*100))
		n, err := unix.Read(p[0], b)
		if err != nil || n > MaxRecord || b[n-1] != '\n' || bytes.Count(b[:n], []byte("\n")) != 1 || !bytes.Contains(b[:n], fmt.Appendf(nil, " i=%d ", i)) {
			t.Fatalf("%q, %v", b[:max(n, 0)], err)
		}
	}
	j.Close(time.Hour)
	unix.Close(p[0])
	unix.Close(p[1])
}

// TestBlockedReader: nobody reads the pipe; logging never waits, what is
// dropped is counted, and told as soon as somebody reads.
func TestBlockedReader(t *testing.T) {
	t.Parallel()
	for _, nonblock := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fd := int(w.Fd())
		unix.SetNonblock(fd, nonblock)
		j := Open(fd, Text)
		log := slog.New(j)
		s := strings.Repeat("x", 1000)
		const n = 5000
		for i := range n { // one that waits waits for ever
			log.Info("m", "i", i, "s", s)
		}
		dropped := j.Dropped()
		if dropped < n-queueLength-200 || dropped >= n {
			t.Errorf("%d of %d dropped", dropped, n)
		}
		lines, told := 0, uint64(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			in := bufio.NewScanner(r)
			for in.Scan() {
				if _, count, ok := strings.Cut(in.Text(), `msg="log records dropped" count=`); ok {
					var c uint64
					fmt.Sscan(count, &c)
					told += c
				} else {
					lines++
				}
			}
		}()
		j.Close(time.Hour)
		w.Close()
		<-done
		r.Close()
		if uint64(lines)+told != n || told != dropped {
			t.Errorf("%d records and %d told as dropped, of %d", lines, told, n)
		}
	}
}

// TestCloseIsBounded, also if nobody ever reads.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	j := Open(int(w.Fd()), Text)
	defer func() { // or it would write to whoever gets the descriptor's number next
		go io.Copy(io.Discard, r)
		<-j.done
		w.Close()
		r.Close()
	}()
	for range 2000 {
		slog.New(j).Info(strings.Repeat("x", 500))
	}
	// One that is not bounded waits for ever.
	j.Close(50 * time.Millisecond)
	j.Close(50 * time.Millisecond) // twice is no harm
	slog.New(j).Info("later")      // and neither is this
}

// TestBrokenPipe: a log that nobody will ever read again does not end the
// process, though it is standard error.
func TestBrokenPipe(t *testing.T) {
	if os.Getenv("OW_CHILD") == "pipe" {
		j := Open(2, Text)
		for i := range 100 {
			slog.New(j).Info("m", "i", i)
		}
		j.Close(time.Hour)
		fmt.Println("alive")
		os.Exit(0)
	}
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokenPipe$")
	cmd.Env = append(os.Environ(), "OW_CHILD=pipe")
	cmd.Stderr = w
	out, err := cmd.Output()
	w.Close()
	if err != nil || string(out) != "alive\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// FuzzRecord: whatever strings are logged, a record is one line of at most
// MaxRecord bytes, valid UTF-8 in JSON, and says what it was given.
func FuzzRecord(f *testing.F) {
	f.Add("message", "a", "b", int64(1), uint8(1), uint16(0))
	f.Add("\n\r\x00", "\xff\xfe", "\u2028\U0001f600", int64(-1), uint8(30), uint16(7))
	f.Add("x", "\"", "\x01", int64(0), uint8(3), uint16(3000))
	f.Add("", "", "", int64(1<<62), uint8(255), uint16(1))
	f.Fuzz(func(t *testing.T, msg, a, b string, n int64, more uint8, times uint16) {
		k := 1 + int(times)%4000 // long strings, without long inputs
		msg, a, b = strings.Repeat(msg, min(k, 1+4000/(1+len(msg)))), strings.Repeat(a, min(k, 1+4000/(1+len(a)))), strings.Repeat(b, min(k, 1+4000/(1+len(b))))
		for _, format := range []Format{Text, JSON} {
			j := &Journal{sink: &sink{}, format: format}
			if more&1 == 1 {
				j = j.WithAttrs([]slog.Attr{slog.String("with", b)}).(*Journal)
			}
			r := slog.NewRecord(time.Now(), slog.LevelInfo, msg, 0)
			r.AddAttrs(slog.String("a", a), slog.Int64("n", n), slog.Any("b", errors.New(b)), slog.Any("l", []string{a, b}))
			for i := range more {
				r.AddAttrs(slog.String(fmt.Sprintf("k%d", i), a))
			}
			out := j.encode(nil, r)
			if len(out) > MaxRecord || bytes.IndexByte(out, '\n') != len(out)-1 {
				t.Fatalf("%d bytes: %q", len(out), out)
			}
			for _, c := range out[:len(out)-1] {
				if c < ' ' || c == 0x7f {
					t.Fatalf("control character in %q", out)
				}
			}
			if !utf8.Valid(out) {
				t.Fatalf("invalid UTF-8: %q", out)
			}
			if format == JSON {
				var v map[string]any
				if err := json.Unmarshal(out, &v); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if s := v["msg"].(string); len(msg) < 100 && s != strings.ToValidUTF8(msg, "\ufffd") && utf8.ValidString(msg) {
					t.Fatalf("message %q became %q", msg, s)
				}
			}
		}
	})
}
