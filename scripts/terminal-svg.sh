#!/bin/bash
# Draws terminal output as an SVG picture: COMMAND | scripts/terminal-svg.sh 'TITLE' >picture.svg
# Colours and boldness of SGR sequences are kept; the picture needs no font but a monospaced one.
set -euo pipefail
awk -v title="${1:-}" '
    BEGIN {
        esc = sprintf("%c", 27)
        split("#6e7681 #ff7b72 #7ee787 #e3b341 #79c0ff #d2a8ff #76e3ea #c9d1d9", colour, " ")
    }
    function escaped(text) {
        gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text)
        return text
    }
    # Characters, not bytes: bytes that continue a character are not counted.
    function columns(text) {
        gsub(/[\200-\277]/, "", text)
        return length(text)
    }
    # No-break spaces: browsers fold the others.
    function styled(text) {
        if (text == "") return ""
        text = escaped(text)
        gsub(/ /, "\302\240", text)
        return sprintf("<tspan fill=\"%s\"%s>%s</tspan>", fill, bold ? " font-weight=\"bold\"" : "", text)
    }
    {
        line = $0; out = ""; width = 0
        fill = "#c9d1d9"; bold = 0
        while (match(line, esc "\\[[0-9;]*[A-Za-z]")) {
            plain = substr(line, 1, RSTART - 1)
            code = substr(line, RSTART + 2, RLENGTH - 3)
            final = substr(line, RSTART + RLENGTH - 1, 1)
            out = out styled(plain); width += columns(plain)
            line = substr(line, RSTART + RLENGTH)
            if (final != "m") continue
            count = split(code == "" ? "0" : code, part, ";")
            for (i = 1; i <= count; i++) {
                n = part[i] + 0
                if (n == 0) { fill = "#c9d1d9"; bold = 0 }
                else if (n == 1) bold = 1
                else if (n == 2) fill = "#8b949e"
                else if (n == 22) { bold = 0; fill = "#c9d1d9" }
                else if (n == 39) fill = "#c9d1d9"
                else if (n >= 30 && n <= 37) fill = colour[n - 29]
                else if (n >= 90 && n <= 97) fill = colour[n - 89]
            }
        }
        out = out styled(line); width += columns(line)
        rows[NR] = out
        if (width > widest) widest = width
    }
    END {
        if (widest < 60) widest = 60
        w = widest * 8.43 + 40; h = NR * 18 + 64
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" ", w, h, w, h
        printf "role=\"img\" aria-label=\"%s\">\n", escaped(title)
        printf "<rect width=\"%d\" height=\"%d\" rx=\"8\" fill=\"#0d1117\"/>\n", w, h
        print "<circle cx=\"20\" cy=\"20\" r=\"6\" fill=\"#ff5f56\"/><circle cx=\"40\" cy=\"20\" r=\"6\" fill=\"#ffbd2e\"/>" \
              "<circle cx=\"60\" cy=\"20\" r=\"6\" fill=\"#27c93f\"/>"
        printf "<text x=\"%d\" y=\"25\" fill=\"#8b949e\" font-family=\"sans-serif\" font-size=\"13\" ", w / 2
        printf "text-anchor=\"middle\">%s</text>\n", escaped(title)
        print "<g font-family=\"ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace\" font-size=\"14\" xml:space=\"preserve\">"
        for (i = 1; i <= NR; i++)
            if (rows[i] != "") printf "<text x=\"20\" y=\"%d\">%s</text>\n", 46 + i * 18, rows[i]
        print "</g>\n</svg>"
    }
'
