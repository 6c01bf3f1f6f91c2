//go:build linux

// Bench measures onewake against the limit of the system (limit.c) and against
// its peers. What is compared takes turns, round by round, and each round gives
// a ratio. The ratios' median and range are shown, as a table in Markdown:
// absolute numbers depend on the machine, and stand beside them for the reader.
//
// It installs nothing. Peers that are missing are named, and their rows left
// out. Everything runs as the calling user in a temporary directory.
//
// On a machine that does other work, `chrt -r 1 go run ./bench` lets what is
// measured go first.
package main

import (
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

//go:embed tiny.c limit.c pump.c
var sources embed.FS

var (
	tmp     string // the directory of everything that is made
	self    string // this program, which is the load generator too
	onewake string // the program under test
	against string // another build of it, or empty

	rounds = 11
	window = 600 * time.Millisecond // of one measurement
	pause  time.Duration            // after each
)

func main() {
	run := bench
	if len(os.Args) > 2 && os.Args[1] == "load" {
		run = func() error { return generate(os.Args[2]) }
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// bench is the whole run.
func bench() error {
	only := flag.String("only", "", "run only the parts whose names match `REGEXP`: "+strings.Join(names(), ", "))
	flag.StringVar(&onewake, "onewake", "", "measure this `PROGRAM` instead of building one")
	flag.StringVar(&against, "against", "", "compare with this `PROGRAM`, another build of onewake, as well")
	flag.IntVar(&rounds, "rounds", rounds, "`NUMBER` of rounds")
	flag.DurationVar(&window, "window", window, "`DURATION` of one measurement")
	flag.DurationVar(&pause, "pause", 0, "`DURATION` after each, for others on the machine")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	raiseFiles()
	defer func() {
		stopAll()
		os.RemoveAll(tmp)
	}()
	cleanUp()
	if err := prepare(); err != nil {
		return err
	}
	return measure(wanted)
}

// cleanUp ends what runs when a signal comes.
func cleanUp() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ch
		stopAll()
		os.RemoveAll(tmp)
		os.Exit(1)
	}()
}

// prepare makes the directory and everything that is compiled.
func prepare() (err error) {
	if self, err = os.Executable(); err != nil {
		return err
	}
	// Socket paths are short, and Apache's workers must get through as root
	// runs them as somebody else.
	if tmp, err = os.MkdirTemp("", "ow"); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return err
	}
	progress("building")
	for _, f := range []string{"tiny", "limit", "pump"} {
		b, err := sources.ReadFile(f + ".c")
		if err != nil {
			return err
		}
		if err := os.WriteFile(program(f+".c"), b, 0o644); err != nil {
			return err
		}
		if err := command("cc", "-O2", "-static", "-o", program(f), program(f+".c")); err != nil {
			return err
		}
	}
	if err := os.Link(program("tiny"), program("tiny.cgi")); err != nil {
		return err
	}
	if against, err = absolute(against); err != nil {
		return err
	}
	if onewake != "" {
		onewake, err = absolute(onewake)
		return err
	}
	onewake = program("onewake")
	return command("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", onewake,
		"github.com/onewake/onewake")
}

// absolute is for servers, which have another working directory.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// started is when this program was.
var started = time.Now()

// progress says what is being done, after how long.
func progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, a...))
}

// program is one of those that prepare made.
func program(name string) string { return filepath.Join(tmp, name) }

func command(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// firstLine is the first line of a file of /proc.
func firstLine(file string) string {
	b, _ := os.ReadFile(file)
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

// A row is one line of the result.
type row struct {
	What      string
	Ours      string // the medians behind a ratio, for the reader
	Reference string
	Unit      string // of values that are no ratios
	Value     spread
	Target    float64 // none if 0
	AtMost    bool    // the target is an upper bound
}

// least and most give a row its target.
func (r row) least(v float64) row { r.Target = v; return r }
func (r row) most(v float64) row  { r.Target, r.AtMost = v, true; return r }

func (r row) String() string {
	target, reached := "", ""
	if r.Target != 0 {
		target, reached = "≥ ", "no"
		if r.AtMost {
			target = "≤ "
		}
		if r.Value.Median == r.Target || (r.Value.Median < r.Target) == r.AtMost {
			reached = "yes"
		}
		target += fmt.Sprint(r.Target) + r.Unit
	}
	value := fmt.Sprintf("%s%s (%s–%s)", number(r.Value.Median), r.Unit, number(r.Value.Min), number(r.Value.Max))
	return "| " + strings.Join([]string{r.What, r.Ours, r.Reference, value, target, reached}, " | ") + " |"
}

// measure runs the parts that are wanted and prints the table.
func measure(wanted *regexp.Regexp) error {
	fmt.Printf("%s, %s/%s, %d CPUs, Linux %s; %d rounds of %v; load average %s", time.Now().Format(time.DateOnly),
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), firstLine("/proc/sys/kernel/osrelease"), rounds, window, firstLine("/proc/loadavg"))
	fmt.Printf("\n\n| what | onewake | reference | ratio (min–max) | target | reached |\n| --- | --- | --- | --- | --- | --- |\n")
	var errs error
	for _, p := range parts {
		if !wanted.MatchString(p.name) {
			continue
		}
		progress("%s", p.name)
		rows, err := p.run()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", p.name, err))
		}
		for _, r := range rows {
			fmt.Println(r)
		}
	}
	fmt.Println()
	for _, r := range remarks {
		fmt.Println("- " + r)
	}
	fmt.Printf("- load average at the end: %s\n", firstLine("/proc/loadavg"))
	return errs
}

// remarks are what a part has to say besides its rows.
var remarks []string

func remark(format string, a ...any) { remarks = append(remarks, fmt.Sprintf(format, a...)) }
