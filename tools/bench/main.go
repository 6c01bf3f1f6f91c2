//go:build linux

// Bench measures onewake against the limit of the system (limit.c) and against
// its peers. What is compared takes turns, round by round, and each round gives
// a ratio. The ratios' median and range are shown, as a table in Markdown:
// absolute numbers depend on the machine, and stand beside them for the reader.
//
// The file rows.go has all rows, measure.go the kinds of measurement, peers.go
// how the peers are configured.
//
// It needs Linux, whose /proc it reads, and a C compiler. It installs nothing:
// rows of peers that are missing say so. Everything runs as the calling user
// in a temporary directory. On a machine that does other work,
// `chrt -r 1 build/bench` lets what is measured go first.
package main

import (
	"bytes"
	"embed"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed tiny.c limit.c
var sources embed.FS

var (
	tmp     string // the directory of everything that is made
	onewake string // the program under test

	rounds = 11
	window = 600 * time.Millisecond // of one measurement
)

func main() {
	flag.StringVar(&onewake, "onewake", "build/onewake", "measure this `PROGRAM`")
	flag.IntVar(&rounds, "rounds", rounds, "`NUMBER` of rounds")
	flag.DurationVar(&window, "window", window, "`DURATION` of one measurement")
	only := flag.String("part", "", "run only the part `NAME`: limit, peers, upload, output, clients, memory or start")
	flag.Parse()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ch
		cleanUp()
		os.Exit(1)
	}()
	err := prepare()
	if err == nil {
		err = measure(*only)
	}
	cleanUp()
	if err != nil {
		log.Fatal(err)
	}
}

// cleanUp leaves nothing behind.
func cleanUp() {
	stopAll()
	os.RemoveAll(tmp)
}

// prepare makes the directory and all files that are measured with.
func prepare() (err error) {
	// Debian has servers outside of most users' PATH.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/usr/local/sbin")
	// As many descriptors as may be, for the servers too.
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		files.Cur = files.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
	}
	// Servers have another working directory.
	if onewake, err = filepath.Abs(onewake); err != nil {
		return err
	}
	if _, err := os.Stat(onewake); err != nil {
		return err
	}
	// Socket paths are short.
	if tmp, err = os.MkdirTemp("", "ow"); err != nil {
		return err
	}
	for _, name := range []string{"tiny", "limit"} {
		source, _ := sources.ReadFile(name + ".c")
		cc := exec.Command("cc", "-O2", "-static", "-o", made(name), "-x", "c", "-")
		cc.Stdin = bytes.NewReader(source)
		if out, err := cc.CombinedOutput(); err != nil {
			return fmt.Errorf("cc %s.c: %w\n%s", name, err, out)
		}
	}
	errs := []error{
		os.Chmod(tmp, 0o711), // for Apache, which serves as another user than root
		os.Link(made("tiny"), made("tiny.cgi")),
		os.WriteFile(made("1MB"), make([]byte, 1e6), 0o600),
		os.Mkdir(made("scripts"), 0o755),
	}
	for i := range 1000 {
		errs = append(errs, os.Link(made("tiny"), made("scripts/"+strconv.Itoa(i)+".cgi")))
	}
	return errors.Join(errs...)
}

// made is the path of a file that prepare made.
func made(name string) string { return filepath.Join(tmp, name) }

// measure runs all parts or one and prints the table.
func measure(only string) error {
	all := parts()
	if only != "" {
		all = slices.DeleteFunc(all, func(p part) bool { return p.name != only })
	}
	if len(all) == 0 {
		return fmt.Errorf("no part %q", only)
	}
	fmt.Printf("%s, %s/%s, %d processors, Linux %s; %d rounds of %v; load average %s\n\n", time.Now().Format(time.DateOnly),
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), line("/proc/sys/kernel/osrelease"), rounds, window, line("/proc/loadavg"))
	fmt.Printf("| what | onewake | reference | ratio (min–max) | target | reached |\n| --- | --- | --- | --- | --- | --- |\n")
	var errs error
	for _, p := range all {
		log.Printf("%s: %d rounds", p.name, rounds)
		s, err := interleave(p.contenders)
		stopAll()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		for _, r := range p.rows {
			fmt.Println(s.line(r))
		}
	}
	fmt.Printf("\nload average at the end: %s\n", line("/proc/loadavg"))
	return errs
}

// line is what a file of one line says.
func line(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}
