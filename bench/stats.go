//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// spread is what several rounds gave.
type spread struct {
	Median, Min, Max float64
	Rounds           int
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	v := slices.Sorted(slices.Values(values))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (m + v[len(v)/2-1]) / 2
	}
	return spread{Median: m, Min: v[0], Max: v[len(v)-1], Rounds: len(v)}
}

// each applies f to pairs of the same round: the ratios of one interleaved run.
func each(a, b []float64, f func(a, b float64) float64) []float64 {
	n := min(len(a), len(b))
	out := make([]float64, n)
	for i := range n {
		out[i] = f(a[i], b[i])
	}
	return out
}

func ratios(a, b []float64) []float64 {
	return each(a, b, func(a, b float64) float64 { return a / b })
}

// number writes a value with three significant digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// table writes rows in columns, the first row being the header.
func table(rows [][]string) string {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	line := func(r []string) {
		b.WriteString("|")
		for i, w := range width {
			c := ""
			if i < len(r) {
				c = r[i]
			}
			b.WriteString(" " + c + strings.Repeat(" ", w-len([]rune(c))) + " |")
		}
		b.WriteString("\n")
	}
	for i, r := range rows {
		line(r)
		if i == 0 {
			rule := make([]string, len(width))
			for j, w := range width {
				rule[j] = strings.Repeat("-", w)
			}
			line(rule)
		}
	}
	return b.String()
}
