"""Pages: reports and reviews as one HTML file each, which needs no network and no program.

`html` makes markup that no name can break out of, and the frame that all pages share (look.css);
`charts` draws; `films` makes pictures of films with the evidence over them; `writing` puts a page
into its file and records it. Start reading at `job`, the report of a scoring job.
"""
