//go:build linux

// Bench measures onewake against the limit of the system (limit.c) and against
// its peers, in one interleaved run: what is compared takes turns, round by
// round, and each round gives a ratio. The ratios' median and range are shown;
// absolute numbers depend on the machine, and stand beside them for the reader.
//
// It installs nothing. Peers that are missing are named, and their rows left
// out. Everything runs as the calling user in a temporary directory.
package main

import (
	"bytes"
	"embed"
	"encoding/json"
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

//go:embed tiny.c limit.c pump.c floor.c
var sources embed.FS

var (
	tmp     string // the directory of everything that is made
	self    string // this program, which is load generator and bare server too
	onewake string // the program under test

	rounds = 11
	window = 600 * time.Millisecond // of one measurement
	quick  bool
)

func main() {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "load":
			exit(generate(os.Args[2]))
		case "serve":
			exit(serve(os.Args[2:]))
		}
	}
	exit(bench())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is the whole run.
func bench() error {
	only := flag.String("only", "", "run only the parts whose names match `REGEXP`: "+strings.Join(names(), ", "))
	asJSON := flag.String("json", "", "write the rows as JSON to `FILE` as well")
	picture := flag.String("svg", "", "draw the comparison with the peers into `FILE`")
	grow := flag.Bool("growth", false, "print the tables of growth instead")
	most := flag.Int("requests", 100_000, "with -growth: the largest `NUMBER` of requests so far")
	binary := flag.String("onewake", "", "measure this `PROGRAM` instead of building one")
	limit := flag.Duration("time", 10*time.Minute, "give up after `DURATION`")
	flag.IntVar(&rounds, "rounds", rounds, "`NUMBER` of rounds")
	flag.DurationVar(&window, "window", window, "`DURATION` of one measurement")
	flag.BoolVar(&quick, "quick", false, "one short round: numbers to look at while working, not to believe")
	flag.Parse()
	if quick {
		rounds, window = 1, min(window, 500*time.Millisecond)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	raiseFiles()
	if err := prepare(*binary); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	defer stopAll()
	giveUp(*limit)
	header()
	if *grow {
		return growth(wanted, *most)
	}
	all, err := measure(wanted)
	if *asJSON != "" {
		b, e := json.MarshalIndent(all, "", "\t")
		err = errors.Join(err, e, os.WriteFile(*asJSON, append(b, '\n'), 0o644))
	}
	if *picture != "" {
		err = errors.Join(err, draw(*picture))
	}
	return err
}

// giveUp cleans up and ends when the time is over or a signal comes.
func giveUp(after time.Duration) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	dir := tmp
	go func() {
		var err error
		select {
		case s := <-ch:
			err = errors.New(s.String())
		case <-time.After(after):
			err = fmt.Errorf("not done after %v", after)
		}
		stopAll()
		os.RemoveAll(dir)
		exit(err)
	}()
}

// prepare makes the directory and everything that is compiled.
func prepare(binary string) (err error) {
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
	progress("building tiny.c, limit.c, pump.c and floor.c")
	for _, f := range []string{"tiny", "limit", "pump", "floor"} {
		b, err := sources.ReadFile(f + ".c")
		if err != nil {
			return err
		}
		c := filepath.Join(tmp, f+".c")
		if err := os.WriteFile(c, b, 0o644); err != nil {
			return err
		}
		if err := command("cc", "-O2", "-static", "-o", filepath.Join(tmp, f), c); err != nil {
			return err
		}
	}
	if err := os.Link(program("tiny"), program("tiny.cgi")); err != nil {
		return err
	}
	if onewake = program("onewake"); binary != "" {
		onewake, err = filepath.Abs(binary)
		return err
	}
	progress("building onewake")
	return command("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", onewake,
		"github.com/onewake/onewake")
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

// header says where and how.
func header() {
	fmt.Printf("%s %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		fmt.Printf(", Linux %s", bytes.TrimSpace(b))
	}
	fmt.Printf(", load average %s before", loadAverage())
	fmt.Printf("; %d rounds of %v each\n\n", rounds, window)
}

// loadAverage is that of the last minute. Throughput on a machine that does
// other work is to be read with care: interleaving evens out when that work
// runs, not whom of the contenders it hits more.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(b))[0]
}

// A row is one line of the result.
type row struct {
	What      string
	Ours      string // the medians behind the ratio, for the reader
	Reference string
	Unit      string // of values that are no ratios
	Value     spread
	Target    float64
	AtMost    bool // the target is an upper bound
	Note      string
}

func (r row) reached() bool {
	if r.AtMost {
		return r.Value.Median <= r.Target
	}
	return r.Value.Median >= r.Target
}

func (r row) cells() []string {
	target, verdict := "≥ ", "not reached"
	if r.AtMost {
		target = "≤ "
	}
	if r.reached() {
		verdict = "reached"
	}
	value := number(r.Value.Median) + r.Unit
	if r.Value.Rounds > 1 {
		value += fmt.Sprintf(" (%s–%s)", number(r.Value.Min), number(r.Value.Max))
	}
	if r.Target == 0 {
		return []string{r.What, r.Ours, r.Reference, value, "", "", r.Note}
	}
	return []string{r.What, r.Ours, r.Reference, value, target + fmt.Sprint(r.Target) + r.Unit, verdict, r.Note}
}

// measure runs the parts that are wanted and prints the table.
func measure(wanted *regexp.Regexp) ([]row, error) {
	cells := [][]string{{"what", "onewake", "reference", "ratio (min–max)", "target", "verdict", "note"}}
	var all []row
	var failed, missing []string
	began := time.Now()
	for _, p := range parts {
		if !wanted.MatchString(p.name) {
			continue
		}
		progress("%s", p.name)
		rows, err := p.run()
		var m missingError
		switch {
		case errors.As(err, &m):
			missing = append(missing, string(m))
		case err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", p.name, err))
		}
		for _, r := range rows {
			all = append(all, r)
			cells = append(cells, r.cells())
		}
	}
	fmt.Print(table(cells))
	if len(remarks) > 0 {
		fmt.Println()
	}
	for _, r := range remarks {
		fmt.Println("- " + r)
	}
	for _, m := range missing {
		fmt.Printf("\nmissing, and their rows left out: %s\n", m)
	}
	fmt.Printf("\n%.0f s, load average %s after\n", time.Since(began).Seconds(), loadAverage())
	if len(failed) > 0 {
		return all, errors.New(strings.Join(failed, "\n"))
	}
	return all, nil
}

// remarks are what a part has to say besides its rows.
var remarks []string

func remark(format string, a ...any) { remarks = append(remarks, fmt.Sprintf(format, a...)) }

// missingError names peers that are not on this machine.
type missingError string

func (e missingError) Error() string { return string(e) }
