package report

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Bar is a figure with its bounds.
type Bar struct{ Value, Low, High float64 }

// Series are the bars of one colour, one for each group. Groups beyond its
// values have none.
type Series struct {
	Name   string
	Values []Bar
}

// BarChart shows groups of bars with their bounds.
type BarChart struct {
	Title, Unit string
	Groups      []string
	Series      []Series
}

// palette is Okabe and Ito's: it can be told apart by the colour-blind.
var palette = []color.Color{
	color.RGBA{R: 0x99, G: 0x99, B: 0x99, A: 255}, color.RGBA{R: 0xcc, G: 0xcc, B: 0xcc, A: 255},
	color.RGBA{G: 0x72, B: 0xb2, A: 255}, color.RGBA{R: 0xe6, G: 0x9f, A: 255},
	color.RGBA{R: 0x56, G: 0xb4, B: 0xe9, A: 255}, color.RGBA{R: 0xd5, G: 0x5e, A: 255},
}

const barWidth = 11 // points

// Save draws the chart as SVG and makes the folder of path.
func (c BarChart) Save(path string) error {
	p := plot.New()
	p.Title.Text = c.Title
	p.Y.Label.Text = c.Unit
	p.Y.Min = 0
	p.Legend.Top = true
	p.BackgroundColor = color.White
	top := 0.0
	for i, series := range c.Series {
		offset := vg.Points(barWidth * (float64(i) - float64(len(c.Series)-1)/2))
		values := make(plotter.Values, len(series.Values))
		points := boundedPoints{offset: offset}
		for g, bar := range series.Values {
			values[g] = bar.Value
			if bar.Value > 0 && !math.IsInf(bar.High, 0) {
				points.bounds = append(points.bounds, bounded{x: float64(g), bar: bar})
			}
			top = max(top, bar.Value)
		}
		bars, err := plotter.NewBarChart(values, vg.Points(barWidth))
		if err != nil {
			return fmt.Errorf("drawing %s: %w", series.Name, err)
		}
		bars.Color = palette[i%len(palette)]
		bars.LineStyle.Width = 0
		bars.Offset = offset
		p.Add(bars, points)
		p.Legend.Add(series.Name, bars)
	}
	p.Y.Max = 1.45 * top // room for the legend
	p.NominalX(c.Groups...)
	err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // a folder of the repository
	if err != nil {
		return err
	}
	return p.Save(9.5*vg.Inch, 5*vg.Inch, path)
}

// boundedPoints draws the bounds of bars that stand beside their group.
type boundedPoints struct {
	offset vg.Length
	bounds []bounded
}

type bounded struct {
	x   float64
	bar Bar
}

// Plot implements plot.Plotter.
func (b boundedPoints) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	style := draw.LineStyle{Color: color.Black, Width: vg.Points(0.75)}
	for _, point := range b.bounds {
		x := toX(point.x) + b.offset
		c.StrokeLine2(style, x, toY(max(0, point.bar.Low)), x, toY(point.bar.High))
	}
}
