# The ARPANET of December 1969: four nodes and four lines.
graph [
  node [ id 0 label "UCLA" ]
  node [ id 1 label "SRI" ]
  node [ id 2 label "UC Santa Barbara" ]
  node [ id 3 label "Utah" ]
  edge [ source 0 target 1 label "50 kbit/s" ]
  edge [ source 0 target 2 label "50 kbit/s" ]
  edge [ source 1 target 2 label "50 kbit/s" ]
  edge [ source 1 target 3 label "50 kbit/s" ]
]
