// Package scripts has the table of the programs in a directory (-scripts). Names
// from requests are looked up in it. They are not used as paths.
package scripts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxDepth is the maximum number of segments in the name of a program.
const MaxDepth = 4

// maxLinks is the maximum number of symbolic links in a path.
const maxLinks = 32

// ErrUnsafe means that any user can write a directory or program.
var ErrUnsafe = errors.New("others can write it")

// Table has the programs by name, which is the path relative to the directory.
type Table struct {
	// Skipped has the files that are not programs, by name, and why. Names that
	// begin with a dot are left out.
	Skipped map[string]error

	dir   string
	owner uint32 // the user who owns dir
	names Names
}

// Read reads a directory, given by its absolute path. A program is a regular file
// that our user can execute, at most MaxDepth levels deep, or a symbolic link to
// such a file of root or of the directory's owner. Its name must be UTF-8, because
// the monitor sends it to the core in that encoding. Files and directories that
// others can write are skipped.
func Read(dir string) (*Table, error) {
	if !filepath.IsAbs(dir) {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: errors.New("not an absolute path")}
	}
	t := &Table{Skipped: make(map[string]error), dir: filepath.Clean(dir)}
	fi, err := walk(t.dir)
	if err == nil {
		t.owner = fi.Sys().(*syscall.Stat_t).Uid
		err = t.read("", 1)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: t.dir, Err: cause(err)}
	}
	slices.Sort(t.names)
	return t, nil
}

// walk follows the path to a directory from the root, through symbolic links as the
// kernel does. No directory in it may be writable by others unless it is sticky:
// otherwise any user could replace the next one.
func walk(dir string) (fi fs.FileInfo, err error) {
	at, rest := "/", strings.Split(dir, "/")
	fi, err = os.Lstat(at)
	for links := 0; err == nil && len(rest) > 0; rest = rest[1:] {
		next := filepath.Join(at, rest[0])
		if fi, err = os.Lstat(next); err != nil {
			break
		}
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(next); filepath.IsAbs(target) {
				at = "/"
			}
			if links++; links > maxLinks {
				err = syscall.ELOOP
			}
			rest = append([]string{""}, append(strings.Split(target, "/"), rest[1:]...)...)
		case !fi.IsDir():
			return nil, syscall.ENOTDIR
		case fi.Mode()&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0:
			return nil, fmt.Errorf("%w: %s", ErrUnsafe, next)
		default:
			at = next
		}
	}
	return fi, err
}

// read reads a directory, given relative to the first.
func (t *Table) read(sub string, depth int) error {
	dir := filepath.Join(t.dir, sub)
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if fi.Mode()&0o002 != 0 {
		return ErrUnsafe // even if it is sticky: others could create a program
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(sub, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case !utf8.ValidString(name):
			t.Skipped[name] = errors.New("the name is not UTF-8")
		case e.IsDir() && depth == MaxDepth:
			t.Skipped[name] = fmt.Errorf("more than %d levels deep", MaxDepth)
		case e.IsDir():
			if err := t.read(name, depth+1); err != nil {
				t.Skipped[name] = err
			}
		default:
			if err := t.check(name); err != nil {
				t.Skipped[name] = err
			} else {
				t.names = append(t.names, name)
			}
		}
	}
	return nil
}

// check returns an error if a file is not a program.
func (t *Table) check(name string) error {
	file := filepath.Join(t.dir, name)
	link, err := os.Lstat(file)
	if err != nil {
		return cause(err)
	}
	fi, err := os.Stat(file)
	if err != nil {
		return cause(err)
	}
	uid := fi.Sys().(*syscall.Stat_t).Uid
	switch {
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file")
	case link.Mode()&fs.ModeSymlink != 0 && uid != 0 && uid != t.owner:
		return errors.New("a link to a file that neither root nor the directory's owner owns")
	case fi.Mode()&0o002 != 0:
		return ErrUnsafe
	}
	if unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) != nil {
		return errors.New("onewake's user cannot execute it")
	}
	return nil
}

// Names returns the names of all programs.
func (t *Table) Names() Names { return t.names }

// Path returns the path of a program, after the checks of [Read], since the file
// may have changed. For a name that is not in the table the error is
// [fs.ErrNotExist].
func (t *Table) Path(name string) (file string, err error) {
	if _, found := slices.BinarySearch(t.names, name); !found {
		return "", fs.ErrNotExist
	}
	return filepath.Join(t.dir, name), t.check(name)
}

// Names is a sorted list of the names of programs.
type Names []string

// Find returns the longest name with which a path begins, in whole segments, and
// the rest of the path: "a/b.cgi" and "/c" for "/a/b.cgi/c".
func (n Names) Find(p string) (name, info string, ok bool) {
	if !strings.HasPrefix(p, "/") {
		return "", "", false
	}
	for end, depth := 0, 0; end < len(p) && depth < MaxDepth; depth++ {
		next := strings.IndexByte(p[end+1:], '/')
		if next < 0 {
			end = len(p)
		} else {
			end += 1 + next
		}
		if _, found := slices.BinarySearch(n, p[1:end]); found {
			name, info, ok = p[1:end], p[end:], true
		}
	}
	return name, info, ok
}

func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
