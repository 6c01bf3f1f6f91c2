package journal

import (
	"bufio"
	"bytes"
	"context"
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

// written gives what f logs, as it comes out of a pipe.
func written(t testing.TB, format Format, f func(log *slog.Logger)) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		var b bytes.Buffer
		b.ReadFrom(r)
		r.Close()
		got <- b.String()
	}()
	j := Open(int(w.Fd()), format)
	f(slog.New(j))
	j.Close(5 * time.Second)
	w.Close()
	return <-got
}

// untimed takes the time off each record.
func untimed(s string) string {
	var out strings.Builder
	for line := range strings.Lines(s) {
		if rest, ok := strings.CutPrefix(line, `{"time":"`); ok {
			out.WriteString("{" + rest[len(timeLayout)+2:])
		} else {
			out.WriteString(line[len("time= ")+len(timeLayout):])
		}
	}
	return out.String()
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		log        func(l *slog.Logger)
		text, json string
	}{
		{"plain", func(l *slog.Logger) { l.Info("a message", "n", 1, "s", "x y", "b", true) },
			`level=INFO msg="a message" n=1 s="x y" b=true`, `{"level":"INFO","msg":"a message","n":1,"s":"x y","b":true}`},
		{"debug is not written", func(l *slog.Logger) { l.Debug("d"); l.Warn("w"); l.Error("e") },
			"level=WARN msg=\"w\"\nlevel=ERROR msg=\"e\"", "{\"level\":\"WARN\",\"msg\":\"w\"}\n{\"level\":\"ERROR\",\"msg\":\"e\"}"},
		{"forged record", func(l *slog.Logger) { l.Info("m", "s", "a\nlevel=ERROR msg=\"forged\"\r\t\x00\x1b[2J\x7f\\") },
			`level=INFO msg="m" s="a\nlevel=ERROR msg=\"forged\"\r\t\x00\x1b[2J\x7f\\"`,
			`{"level":"INFO","msg":"m","s":"a\nlevel=ERROR msg=\"forged\"\r\t\u0000\u001b[2J\u007f\\"}`},
		{"invalid UTF-8", func(l *slog.Logger) { l.Info("m", "s", "\xffä\xc3") }, `level=INFO msg="m" s="\xffä\xc3"`, `{"level":"INFO","msg":"m","s":"\ufffdä\ufffd"}`},
		{"not printable", func(l *slog.Logger) { l.Info("m", "s", "\u202e\u2028") }, `level=INFO msg="m" s="\u202e\u2028"`, "{\"level\":\"INFO\",\"msg\":\"m\",\"s\":\"\u202e\u2028\"}"},
		{"values", func(l *slog.Logger) {
			l.Info("m", "d", 1500*time.Millisecond, "u", uint64(7), "f", 1.5, "e", errors.New("an error"), "l", []string{"a", "b c"}, "nil", nil)
		}, `level=INFO msg="m" d=1.500000 u=7 f=1.5 e="an error" l="a","b c" nil="<nil>"`,
			`{"level":"INFO","msg":"m","d":1.500000,"u":7,"f":1.5,"e":"an error","l":["a","b c"],"nil":"<nil>"}`},
		{"groups", func(l *slog.Logger) {
			l.With("w", 1).WithGroup("g").With("x", 2).Info("m", "y", 3, slog.Group("h", "z", 4), slog.Group("", "i", 5))
		}, `level=INFO msg="m" w=1 g.x=2 g.y=3 g.h.z=4 g.i=5`, `{"level":"INFO","msg":"m","w":1,"g.x":2,"g.y":3,"g.h.z":4,"g.i":5}`},
	} {
		if got := untimed(written(t, Text, tt.log)); got != tt.text+"\n" {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.text)
		}
		if got := untimed(written(t, JSON, tt.log)); got != tt.json+"\n" {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.json)
		}
	}
}

// TestCut: what is too long is cut, and the mark tells how much is missing.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{Text, JSON} {
		for _, c := range []string{"a", "\n", "\xff", "ä", "\U0001f600", "\u202e", "\""} {
			s := strings.Repeat(c, 5000)
			got := written(t, format, func(l *slog.Logger) { l.Info("m", "s", s, "next", s, "status", 200) })
			if len(got) > MaxRecord || strings.Count(got, "\n") != 1 {
				t.Fatalf("%q: %d bytes", c, len(got))
			}
			if !strings.Contains(got, "status") || !strings.Contains(got, "200") {
				t.Errorf("%q: what comes after is lost: %s", c, got)
			}
			_, mark, ok := strings.Cut(got, " [+")
			var left int
			if _, err := fmt.Sscanf(mark, "%d]", &left); !ok || err != nil || left <= 0 || left >= len(s) || left%len(c) != 0 {
				t.Errorf("%q: mark %q", c, mark)
			}
		}
	}
	if got := written(t, Text, func(l *slog.Logger) { l.Info("m", "s", strings.Repeat("a", 500)) }); strings.Contains(got, "[+") {
		t.Errorf("cut without need: %s", got)
	}
}

func TestFit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s    string
		room int
		want int
	}{{"abc", 3, 3}, {"abc", 2, 2}, {"abc", 0, 0}, {"", 0, 0}, {"a\nb", 3, 2}, {"ää", 10, 2}, {"ää", 19, 2}, {"ää", 20, 4}, {"\xff\xff", 10, 1}, {"\x00\x00", 11, 1}} {
		if got := Fit(tt.s, tt.room); got != tt.want {
			t.Errorf("%q in %d: %d, want %d", tt.s, tt.room, got, tt.want)
		}
		if got := Fit([]byte(tt.s), tt.room); got != tt.want {
			t.Errorf("bytes %q in %d: %d, want %d", tt.s, tt.room, got, tt.want)
		}
	}
}

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
	j.Close(time.Second)
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
		slowest := time.Duration(0)
		for i := range n {
			at := time.Now()
			log.Info("m", "i", i, "s", s)
			slowest = max(slowest, time.Since(at))
		}
		if slowest > 2*time.Second {
			t.Errorf("one record took %v", slowest)
		}
		dropped := j.Dropped()
		if dropped < n-queueLength-200 || dropped >= n {
			t.Errorf("%d of %d dropped", dropped, n)
		}
		at := time.Now()
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
		j.Close(10 * time.Second)
		w.Close()
		<-done
		r.Close()
		if uint64(lines)+told != n || told != dropped {
			t.Errorf("%d records and %d told as dropped, of %d; took %v", lines, told, n, time.Since(at))
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
	at := time.Now()
	j.Close(50 * time.Millisecond)
	j.Close(50 * time.Millisecond) // twice is no harm
	if d := time.Since(at); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
	slog.New(j).Info("later") // and neither is this
}

// TestBrokenPipe: a log that nobody will ever read again does not end the
// process, though it is standard error.
func TestBrokenPipe(t *testing.T) {
	if os.Getenv("OW_CHILD") == "pipe" {
		j := Open(2, Text)
		for i := range 100 {
			slog.New(j).Info("m", "i", i)
			time.Sleep(100 * time.Microsecond)
		}
		j.Close(time.Second)
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

// BenchmarkHandle also shows that a record costs no allocation but slog's own.
func BenchmarkHandle(b *testing.B) {
	w, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	j := Open(int(w.Fd()), Text)
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "request", 0)
	r.AddAttrs(slog.String("path", "/a/b"), slog.Int("status", 200))
	b.ReportAllocs()
	for b.Loop() {
		j.Handle(context.Background(), r)
	}
	j.Close(time.Second)
}
