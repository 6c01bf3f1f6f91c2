//go:build stress

package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
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
