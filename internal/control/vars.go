package control

import "strings"

// Vars collects the variables of a request in the form in which they travel:
// each NAME=VALUE with a NUL behind it. Its zero value is empty.
type Vars struct {
	// Allowed are the only ones that are taken; nil stands for all. What the
	// monitor would call a breach is left out here, such as a variable that
	// -env sets and that a request would set too.
	Allowed *Names

	b    []byte
	over bool
}

// Reset empties v and keeps its memory.
func (v *Vars) Reset() {
	v.b = v.b[:0]
	v.over = false
}

// Add adds one variable. Its parts hold no NUL, and the name no "=".
func (v *Vars) Add(name, value string) {
	if v.Allowed != nil && !v.Allowed.Allow(name) {
		return
	}
	v.b = append(v.b, name...)
	v.b = append(v.b, '=')
	v.b = append(v.b, value...)
	v.b = append(v.b, 0)
	if len(name)+len(value)+2 > MaxVar || len(v.b) > MaxVars {
		v.over = true
	}
}

// AddHeader adds HTTP_ and the field's name in upper case, "-" become "_"
// (RFC 3875 § 4.1.18).
func (v *Vars) AddHeader(name, value string) {
	v.Add("HTTP_"+strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z':
			return c - 'a' + 'A'
		case c == '-':
			return '_'
		}
		return c
	}, name), value)
}

// TooLarge tells whether the monitor would refuse v for its size.
func (v *Vars) TooLarge() bool { return v.over }

// Bytes gives the variables, each NAME=VALUE with a NUL behind it.
func (v *Vars) Bytes() []byte { return v.b }

// checkVars takes the variables of a start message apart and appends them to
// env.
func checkVars(env []string, vars string, names *Names) ([]string, error) {
	if len(vars) > MaxVars {
		return env, breach("%d bytes of variables", len(vars))
	}
	for len(vars) > 0 {
		one, rest, ok := strings.Cut(vars, "\x00")
		if !ok {
			return env, breach("variable without an end")
		}
		if len(one)+1 > MaxVar {
			return env, breach("variable of %d bytes", len(one)+1)
		}
		if name, _, ok := strings.Cut(one, "="); !ok || !names.Allow(name) {
			return env, breach("variable %.64q", name)
		}
		env = append(env, one)
		vars = rest
	}
	return env, nil
}
